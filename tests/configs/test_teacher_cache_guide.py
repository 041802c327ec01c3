"""docs/teacher_cache.md: example config, command line and cache sizes agree."""

import math
import re
import shutil
from pathlib import Path

import pytest
from mmengine.registry import LOOPS

from mmkdml.apis import config_parser, load_config
from mmkdml.engine import ResumableTrainLoop
from mmkdml.inspection import inspect_config

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / 'docs' / 'teacher_cache.md').read_text()


def test_example_config_equals_command_line(tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    (example,) = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)
    (tmp_path / 'configs' / 'mine.py').write_text(example)
    mine = load_config(tmp_path / 'configs' / 'mine.py')
    assert mine.model.teacher_cache == dict(path='work_dirs/teacher_cache.sqlite', limit=20)
    assert mine.train_cfg.augmentations_per_image == 4

    command = re.search(r'mmkdml train (mmkdml::kd_off/(?:.*\\\n)*.*)', GUIDE)[1]
    args = config_parser('').parse_args(command.replace('\\\n', ' ').split())
    same = load_config(args.config, args.cfg_options)
    assert same.model == mine.model
    assert mine.train_cfg.pop('type') is ResumableTrainLoop
    assert LOOPS.get(same.train_cfg.pop('type')) is ResumableTrainLoop
    assert same.train_cfg == mine.train_cfg


@pytest.mark.usefixtures('uninitialized')
@pytest.mark.parametrize('config', ['v3_lgg', 'v2_pcam'])
def test_cache_sizes_match_the_guide(config):
    row = re.search(rf'\| `kd_off/\*_{config}`, \S+ \| (\d+) KiB: .* \| (\d+) MiB \|', GUIDE)
    terms = inspect_config(
        load_config(ROOT / 'configs' / 'kd_off' / f'r50_r18x2_{config}.py')
    ).distiller.transfer_terms
    kept = {term.source_tap: math.prod(term.source_shape) * 4 for term in terms}
    kib = sum(kept.values()) / 1024
    assert [int(figure) for figure in row.groups()] == [int(kib), round(kib * 1000 / 1024)]
