"""docs/transfer_weights.md and the configs that it names agree."""

import re
import shutil
from pathlib import Path

from mmkdml.apis import load_config
from mmkdml.models import DiversifiedKDMLDistiller
from mmkdml.models.weighting.schedules import SCHEDULES

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / 'docs' / 'transfer_weights.md').read_text()


def test_example_is_the_config_that_is_named(tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (example,) = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)
    (tmp_path / 'configs' / 'mine.py').write_text(example)
    mine = load_config(tmp_path / 'configs' / 'mine.py').model
    assert mine.weight_schedules.beta.end == 10
    assert mine == load_config(ROOT / 'configs/weights/warm_up_r50_r18x2_v3_lgg.py').model


def test_named_files_and_all_schedules():
    named = set(re.findall(r'configs/weights/\w+\.py', GUIDE))
    files = {str(path.relative_to(ROOT)) for path in (ROOT / 'configs/weights').glob('*.py')}
    assert named == files
    assert set(re.findall(r'`(\w+Weight)\(', GUIDE)) == set(SCHEDULES)


def test_schedules_survive_a_text_config_and_options(tmp_path):
    """The config of a run is text, and options change its schedules."""
    path = ROOT / 'configs' / 'weights' / 'warm_up_r50_r18x2_v3_lgg.py'
    options = {
        'model.weight_schedules.beta.end': 4,
        'model.weight_schedules.beta.convert_to_iter_based': True,
        'model.weights.beta': (0.2, 0.3),
    }
    load_config(path, options).dump(tmp_path / 'dumped.py')
    model = load_config(tmp_path / 'dumped.py').model
    assert model.weight_schedules.beta.end == 4
    small = dict(
        type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.ResNet', depth=18)
    )
    small |= dict(neck=dict(type='mmpretrain.GlobalAveragePooling'))
    small |= dict(head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=512))
    room = DiversifiedKDMLDistiller(
        mode=model.mode,
        style=model.style,
        weights=model.weights,
        weight_schedules=model.weight_schedules,
        teacher=small,
        students=[small, small],
        input_size=(32, 32),
    )
    beta = [
        (row.weight, row.schedule[0]['end']) for row in room.transfers if row.source == 'teacher'
    ]
    assert beta == [(0.2, 4), (0.3, 4)]
