"""docs/predict.md, followed to the letter on a run of the demo's small networks."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.commands import command_tools
from mmkdml.registry import MODELS

nibabel = pytest.importorskip('nibabel')
pydicom = pytest.importorskip('pydicom')

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / 'docs' / 'predict.md').read_text()
COMMANDS = re.findall(r'^    mmkdml (.*)$', GUIDE, re.MULTILINE)
VIEWS, *SNIPPETS = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)
(CODES,) = re.findall(r'```json\n(.*?)```', GUIDE, re.DOTALL)
AFFINE = np.diag([-1, 2, 3, 1])
RUN = Path('work_dirs/kdml/r50_r18x2_v3_lgg')


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A run, images and a volume, by the names that the guide has for them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', sys.argv)
    RUN.mkdir(parents=True)
    config = load_config(ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py')
    config.dump(RUN / 'r50_r18x2_v3_lgg.py')
    torch.manual_seed(0)
    meta = dict(dataset_meta=dict(classes=('background', 'tumour')))
    content = dict(state_dict=MODELS.build(config.model).state_dict(), meta=meta)
    torch.save(content, RUN / 'best_x_epoch_1.pth')
    Path('images').mkdir()
    rng = np.random.default_rng(0)
    for name in ('one', 'two'):
        pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(f'images/{name}.png')
    voxels = rng.integers(0, 900, (6, 7, 3)).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(voxels, AFFINE), 'flair.nii.gz')
    Path('pacs_export').mkdir()
    slice_of_ct = pydicom.data.get_testdata_file('CT_small.dcm', download=False)
    shutil.copy(slice_of_ct, 'pacs_export/IM1')
    Path('codes.json').write_text(CODES)
    return tmp_path


def test_the_commands(place):
    assert len(COMMANDS) == 3
    for command in COMMANDS:
        tool, *arguments = shlex.split(command)
        sys.argv = [tool, *arguments]
        runpy.run_path(str(command_tools()[tool]), run_name='__main__')
    assert sorted(path.name for path in Path('answers').iterdir()) == [
        *(
            '.mmkdml_outputs',
            'cases',
            'masks',
            'overlays',
            'predictions.csv',
            'predictions.json',
            'settings.json',
        )
    ]
    for member in ('teacher', 'student_1', 'student_2', 'ensemble'):
        assert Path(f'answers/masks/{member}/one.png').is_file()
        assert Path(f'volumes/masks/{member}/flair.nii.gz').is_file()
        seg = pydicom.dcmread(f'segmented/segmentations/{member}/pacs_export.dcm')
        assert seg.SegmentSequence[0].SegmentLabel == 'Glioma'


def test_the_options_are_those_of_the_tool(place, capsys):
    shown = set(re.findall(r'--[a-z][a-z-]+', re.sub(r'```.*?```', '', GUIDE, flags=re.DOTALL)))
    sys.argv = ['predict.py', '--help']
    with pytest.raises(SystemExit, match='0'):
        runpy.run_path(str(ROOT / 'tools' / 'predict.py'), run_name='__main__')
    known = set(re.findall(r'--[a-z][a-z-]+', capsys.readouterr().out))
    assert shown == known - {'--help'}


def test_the_snippets_one_after_the_other(place, capsys):
    bad, names = Path('images/bad.png'), {}
    for snippet in SNIPPETS:
        if 'on_error' in snippet:
            bad.write_text('no image')
        exec(snippet, names)
        bad.unlink(missing_ok=True)
    printed = capsys.readouterr().out
    assert "segmentation ('teacher', 'student_1', 'student_2', 'ensemble')" in printed
    assert 'two (40, 50) ' in printed
    assert re.search(r'\d+\.\d% of the image is tumour', printed)
    assert list(names['failed']) == ['bad']
    assert len(names['good']) == 2
    mask = nibabel.load('tumour.nii.gz')
    np.testing.assert_array_equal(mask.affine, AFFINE)
    # Shown with the left on the right and the front above, and turned back.
    np.testing.assert_array_equal(
        np.asarray(mask.dataobj), names['masks'].transpose(2, 1, 0)[:, ::-1]
    )
    pd.testing.assert_frame_equal(names['table'], pd.read_csv('answers/predictions.csv'))
    assert list(names['table'].member) == ['ensemble', 'ensemble']


def test_the_views(place):
    shutil.copytree(ROOT / 'configs', 'configs')
    Path('configs/views.py').write_text(VIEWS)
    _, views = ImagePipeline(load_config('configs/views.py'), augment=True)('images/one.png')
    shapes = [tuple(one.shape[1:]) for one in views['inputs']]
    assert shapes == [(side, side) for side in (224, 256, 288) for _ in range(2)]
    assert [one.flip for one in views['data_samples']] == [False, True] * 3
    assert views['inputs'][1].equal(views['inputs'][0].flip(2))
