"""The command line: exit codes, messages of one line, and no code of a checkpoint run."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]
SEGMENT, CLASSIFY = (
    ROOT / 'configs' / 'demo' / f'{name}.py' for name in ('kdml_v3_demo', 'kdml_v3_demo_slices')
)


class Payload:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp('trained') / 'x.pth'
    torch.manual_seed(0)
    torch.save(MODELS.build(load_config(SEGMENT).model).state_dict(), path)
    return path


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'images'
    path.mkdir()
    for seed, name in enumerate(('a', 'b', 'b_mask')):
        pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(path / f'{name}.png')
    return path


@pytest.fixture
def predict(tool):
    def run(*args, **kwargs):
        tool('predict', *args, experiment=False, **kwargs)

    return run


def test_a_folder(predict, checkpoint, folder, tmp_path, capsys):
    out = tmp_path / 'out'
    command = (SEGMENT, checkpoint, folder, '--out', out, '--exclude', '*_mask.*')
    predict(*command, '--members', 'ensemble', '--tta', '--device', 'cpu', '--batch-size', 1)
    assert f'2 cases predicted: {out}' in capsys.readouterr().out
    assert sorted(path.name for path in (out / 'masks' / 'ensemble').iterdir()) == [
        'a.png',
        'b.png',
    ]
    assert (out / 'overlays' / 'b.png').is_file()
    settings = json.loads((out / 'settings.json').read_text())
    assert (settings['augment'], settings['members']) == (True, ['ensemble'])
    with pytest.raises(SystemExit, match='predict.py: error: .*holds answers of other settings'):
        predict(*command, '--no-overlays')
    predict(*command, '--no-overlays', '--force')
    assert (out / 'masks' / 'teacher' / 'a.png').is_file()


def test_bad_files_end_in_an_exit_code_and_the_good_are_done(predict, checkpoint, folder, tmp_path):
    Image.new('RGBA', (4, 4)).save(folder / 'four.png')
    Image.new('L', (400, 300)).save(folder / 'huge.png')
    (folder / 'text.png').write_text('no image')
    (folder / 'cut.png').write_bytes((folder / 'a.png').read_bytes()[:2000])
    out = tmp_path / 'out'
    with pytest.raises(SystemExit) as stopped:
        predict(SEGMENT, checkpoint, folder, '--out', out, '--no-overlays', '--max-megapixels', 0.1)
    message = stopped.value.code  # a text, so that the exit code is 1
    assert message.startswith('predict.py: error: 4 of 7 cases could not be predicted')
    for line in (
        'four.png: expected an image of mode RGB',
        'huge.png: 0.1 megapixels are more than 0.1',
        'text.png: unreadable image',
        'cut.png: unreadable image',
    ):
        assert line in message
    assert len(list((out / 'masks' / 'ensemble').iterdir())) == 3


def test_nothing_to_predict_with(predict, checkpoint, folder, tmp_path):
    (tmp_path / 'empty').mkdir()
    malicious = tmp_path / 'malicious.pth'
    torch.save(dict(state_dict={}, meta=Payload(tmp_path / 'made')), malicious)
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    for (config, weights, images), message in {
        (SEGMENT, checkpoint, tmp_path / 'empty'): 'empty holds no image: expected files with',
        (SEGMENT, checkpoint, 'nowhere'): 'There is no image or folder nowhere',
        (SEGMENT, 'nowhere', folder): 'There is no checkpoint at nowhere',
        (SEGMENT, malicious, folder): 'malicious.pth cannot be loaded as a checkpoint of weights',
        (SEGMENT, cut, folder): 'cut.pth cannot be loaded as a checkpoint of weights',
        (CLASSIFY, checkpoint, folder): 'x.pth does not fit the model of this config',
    }.items():
        with pytest.raises(SystemExit, match=f'predict.py: error: .*{message}'):
            predict(config, weights, images, '--out', tmp_path / 'out')
    assert not (tmp_path / 'made').exists()
    assert not (tmp_path / 'out').exists()


def test_a_volume_by_plane_and_window(predict, checkpoint, tmp_path):
    nibabel = pytest.importorskip('nibabel')
    voxels = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / 'v.nii')
    out = tmp_path / 'out'
    options = ('--plane', 'coronal', '--window', '-1', '2.5', '--members', 'student_1')
    predict(SEGMENT, checkpoint, tmp_path / 'v.nii', '--out', out, *options)
    assert nibabel.load(out / 'masks' / 'student_1' / 'v.nii.gz').shape == (3, 4, 5)
    settings = json.loads((out / 'settings.json').read_text())
    assert (settings['plane'], settings['window']) == ('coronal', [-1, 2.5])
    with Image.open(out / 'overlays' / 'v.png') as overlay:
        assert overlay.height > overlay.width  # four rows of two columns
