from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmkdml.analysis import format_taps, inspect_config, tap_rows
from mmkdml.analysis.taps_listing import TapRow
from mmkdml.models.taps import TapRecorder


class Task:
    """A forward is all that listing needs of a task."""

    def logits(self, member, inputs):
        return member(inputs)


class Network(nn.Module):
    """A module that runs twice, one changed in place, one that gives a dict, one left out."""

    def __init__(self):
        super().__init__()
        self.late = nn.Conv2d(3, 5, 1)
        self.early = nn.Sequential(
            nn.Conv2d(3, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        )
        self.twice = nn.Identity()
        self.pair = Pair()
        self.loss = nn.Identity()

    def forward(self, x):
        return self.late(self.pair(self.twice(self.twice(self.early(x))))['map'])


class Pair(nn.Module):
    def forward(self, x):
        return {'map': x}


def test_rows_in_order_of_execution_with_what_cannot_be_tapped():
    assert tap_rows(Network(), Task(), (8, 6)) == [
        TapRow('early.0', 'Conv2d', (1, 3, 4, 3)),
        TapRow(
            'early.1', 'BatchNorm2d', None, 'its output was changed in place after it was recorded'
        ),
        TapRow('early.2', 'ReLU', (1, 3, 4, 3)),
        TapRow('early', 'Sequential', (1, 3, 4, 3)),
        TapRow('twice', 'Identity', None, 'it ran 2 times in one forward'),
        TapRow('pair', 'Pair', None, 'it gives dict, not a tensor or a tuple of tensors'),
        TapRow('late', 'Conv2d', (1, 5, 4, 3)),
    ]


@pytest.fixture(scope='module')
def demo():
    return inspect_config(
        Config.fromfile(Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py')
    )


def test_what_is_listed_can_be_tapped(demo):
    member = demo.members['student_1'].eval()
    rows = [row for row in tap_rows(member, demo.task, (64, 64)) if row.shape is not None]
    with TapRecorder(member, [row.name for row in rows]) as taps, torch.no_grad():
        member(torch.zeros(1, 3, 64, 64))
    assert {row.name: row.shape for row in rows} == {
        row.name: tuple(taps[row.name].shape) for row in rows
    }


def test_members_that_are_alike_share_a_table_and_the_default_is_marked(demo):
    text = format_taps(demo, depth=3)
    assert text.count('\nteacher\n') == 1
    assert text.count('\nstudent_1, student_2\n') == 1
    starred = [line for line in text.splitlines() if line.startswith('| *')]
    assert len(starred) == 2
    assert all('decode_head.blocks.0' in line and '1x64x4x4' in line for line in starred)
    assert 'backbone.layer1.0.conv1' not in text


def test_one_member_and_a_pattern(demo):
    text = format_taps(demo, member='teacher', match='*.layer?')
    names = [line.split('|')[2].strip() for line in text.splitlines() if line.startswith('| ')]
    assert names == ['tap', *(f'backbone.layer{stage}' for stage in (1, 2, 3, 4))]
    assert 'student' not in text


def test_refusals(demo):
    with pytest.raises(ValueError, match="no member 'x'; the config has teacher, student_1, stude"):
        format_taps(demo, member='x')
    with pytest.raises(ValueError, match='depth must be at least 1, got 0'):
        format_taps(demo, depth=0)
    with pytest.raises(ValueError, match=r"No module fits match='nothing\*' and depth=2"):
        format_taps(demo, depth=2, match='nothing*')
