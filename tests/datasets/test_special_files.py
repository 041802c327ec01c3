"""Named pipes instead of images: opening one blocks forever."""

import os

import pytest

from mmkdml.datasets.images import read_binary_mask, read_header, read_image


def refuse_pipe(path):
    for read in (lambda: read_image(path, ('RGB',)), lambda: read_binary_mask(path),
                 lambda: read_header(path)):  # fmt: skip
        with pytest.raises(ValueError, match='not a regular file') as refused:
            read()
        assert str(path) in str(refused.value)


@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no named pipes')
def test_named_pipes_raise(tmp_path, forked):
    os.mkfifo(tmp_path / 'image.png')
    (process,) = forked((refuse_pipe, tmp_path / 'image.png'))
    process.join(60)
    assert process.exitcode == 0
