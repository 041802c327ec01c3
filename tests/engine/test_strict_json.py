import json
import math

import pytest
import torch
from mmengine.hooks import LoggerHook
from mmengine.visualization import LocalVisBackend

from mmkdml.engine import StrictJsonLoggerHook, StrictJsonVisBackend


def fail(word):
    raise ValueError(word)


def lines(path):
    return [json.loads(line, parse_constant=fail) for line in path.read_text().splitlines()]


def test_undefined_scalars_are_null(tmp_path):
    backend = StrictJsonVisBackend(save_dir=str(tmp_path))
    backend.add_scalar('loss', torch.tensor(math.nan), step=1)
    backend.add_scalars({'iou': math.inf, 'lr': 0.1, 'at': 3}, step=2, file_path='all.json')
    expected = {'iou': None, 'lr': 0.1, 'at': 3, 'step': 2}
    assert lines(tmp_path / 'scalars.json') == [{'loss': None, 'step': 1}, expected]
    assert lines(tmp_path / 'all.json') == [expected]


def test_finite_scalars_are_written_as_by_mmengine(tmp_path):
    for name, kind in (('mmkdml', StrictJsonVisBackend), ('mmengine', LocalVisBackend)):
        backend = kind(save_dir=str(tmp_path / name))
        backend.add_scalar('loss', torch.tensor(0.1), step=1)
        backend.add_scalars({'iou': 1 / 3, 'epoch': 3, 'time': 1e-9}, step=2)
    texts = [(tmp_path / name / 'scalars.json').read_text() for name in ('mmkdml', 'mmengine')]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ('value', 'expected'), [(math.nan, None), (1.5, 1.5), ([1, math.inf], [1, None])]
)
def test_undefined_test_metrics_are_null(value, expected):
    tags = {'model/IoU': value, 'table': torch.ones(2)}
    assert StrictJsonLoggerHook._process_tags(tags) == {'model/IoU': expected, 'table': [1.0, 1.0]}
    assert LoggerHook._process_tags(tags)['model/IoU'] is value or value == [1, math.inf]
