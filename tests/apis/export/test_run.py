"""Arguments of ``export_run``; the test of the tool compares the files."""

from pathlib import Path

import pytest

from mmkdml.apis import export_run

CONFIG = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo_slices.py'


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(check=0), 'check: expected at least 1 image, got 0'),
        (dict(int8=True, images='x'), 'int8: expected no folder of images'),
        (dict(checkpoint=None), 'CONFIG: a config requires a checkpoint'),
    ],
)
def test_invalid_arguments_raise(checkpoints, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message.replace('CONFIG', CONFIG.name)):
        export_run(CONFIG, tmp_path / 'out', **{'checkpoint': checkpoints[CONFIG], **arguments})
    assert not (tmp_path / 'out').exists()
