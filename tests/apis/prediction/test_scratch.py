import numpy as np
import pytest

from mmkdml.apis.prediction import scratch
from mmkdml.apis.prediction.scratch import LazySlices, Scratch


@pytest.mark.parametrize('kept', [0, 2**20])
def test_array_keeps_its_content(monkeypatch, tmp_path, kept):
    """In memory and in a file, which has no name and disappears."""
    monkeypatch.setattr(scratch, '_KEPT', kept)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    made = Scratch((3, 4, 5), np.int16)
    assert isinstance(made.open(), np.memmap) == (kept == 0)
    assert not made.open().any()
    for index in range(3):
        made.open()[index] = index * np.arange(20).reshape(4, 5)
    np.testing.assert_array_equal(
        made.open(), np.arange(3)[:, None, None] * np.arange(20).reshape(4, 5)
    )
    assert list(tmp_path.iterdir()) == []


def test_full_disk_raises(monkeypatch):
    """Writing to a mapped file would end the process instead."""
    monkeypatch.setattr(scratch, '_KEPT', 0)
    with pytest.raises(OSError, match='space|large'):
        Scratch((2**50,), np.uint8)


def test_slices_are_computed_when_they_are_used():
    asked = []
    slices = LazySlices(lambda index: asked.append(index) or np.full((2, 3), index), (4, 2, 3))
    assert (len(slices), slices.shape, asked) == (4, (4, 2, 3), [])
    assert slices[-1][0, 0] == 3
    assert [one[0, 0] for one in slices[1:3]] == [1, 2]
    assert np.asarray(slices, np.uint8).tolist() == np.stack(list(slices)).tolist()
    assert asked == [3, 1, 2, *range(4), *range(4)]
    with pytest.raises(IndexError):
        slices[4]
