from ast import literal_eval
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmkdml.inspection import format_taps, inspect_config, tap_rows
from mmkdml.inspection.config import inspect_model
from mmkdml.inspection.taps_listing import TapRow, format_suggestion
from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.taps import TapRecorder


class Task:
    """Stub of a task with the only method that listing uses."""

    def logits(self, member, inputs):
        return member(inputs)


class Network(nn.Module):
    """Modules that run twice, are modified in place, return a dict, or do not run."""

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


def test_rows_are_in_order_of_execution_with_untappable_modules():
    assert tap_rows(Network(), Task(), (8, 6)) == [
        TapRow('early.0', 'Conv2d', (1, 3, 4, 3)),
        TapRow(
            'early.1', 'BatchNorm2d', None, 'its output was modified in place after it was recorded'
        ),
        TapRow('early.2', 'ReLU', (1, 3, 4, 3)),
        TapRow('early', 'Sequential', (1, 3, 4, 3)),
        TapRow(
            'twice',
            'Identity',
            None,
            'expected a module that runs once per forward pass, but it ran 2 times',
        ),
        TapRow('pair', 'Pair', None, 'expected a tensor or a tuple of tensors, got dict'),
        TapRow('late', 'Conv2d', (1, 5, 4, 3)),
    ]


CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def demo():
    return inspect_config(Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py'))


def classroom(members, transfers=(), frozen=(), **options):
    """Inspect a classroom of small classifiers; ``members`` has backbone options by name."""
    config = Config.fromfile(CONFIGS / '_base_' / 'networks' / 'classifiers.py')
    model = dict(
        type='mmkdml.KnowledgeDistiller',
        members={
            name: dict(config.resnet18, backbone={**config.resnet18.backbone, **backbone})
            for name, backbone in members.items()
        },
        transfers=[dict(zip(('source', 'learner'), pair, strict=True)) for pair in transfers],
        frozen=dict.fromkeys(frozen),
        input_size=(32, 96),
        data_preprocessor=config.data_preprocessor,
        **options,
    )
    for transfer in model['transfers']:
        transfer.update(knowledge='predictions', weight=1.0)
    return inspect_config(Config(dict(model=model)))


def test_listed_modules_can_be_tapped(demo):
    member = demo.members['student_1'].eval()
    rows = [row for row in tap_rows(member, demo.task, (64, 64)) if row.shape is not None]
    with TapRecorder(member, [row.name for row in rows]) as taps, torch.no_grad():
        member(torch.zeros(1, 3, 64, 64))
    assert {row.name: row.shape for row in rows} == {
        row.name: tuple(taps[row.name].shape) for row in rows
    }


def test_identical_members_share_a_table_and_default_is_marked(demo):
    text = format_taps(demo, depth=3)
    assert text.count('\nteacher\n') == 1
    assert text.count('\nstudent_1, student_2\n') == 1
    starred = [line for line in text.splitlines() if line.startswith('| *')]
    assert len(starred) == 2
    assert all('decode_head.blocks.0' in line and '1x64x4x4' in line for line in starred)
    assert 'backbone.layer1.0.conv1' not in text


def test_member_and_pattern_select_rows(demo):
    text = format_taps(demo, member='teacher', match='*.layer?')
    names = [line.split('|')[2].strip() for line in text.splitlines() if line.startswith('| ')]
    assert names == ['tap', *(f'backbone.layer{stage}' for stage in (1, 2, 3, 4))]
    assert 'student' not in text


def test_invalid_selection_raises(demo):
    with pytest.raises(ValueError, match="member 'x': .* teacher, student_1, student_2"):
        format_taps(demo, member='x')
    with pytest.raises(ValueError, match='depth: expected at least 1, got 0'):
        format_taps(demo, depth=0)
    with pytest.raises(ValueError, match=r"match='nothing\*' and depth=2"):
        format_taps(demo, depth=2, match='nothing*')


def parts_of(text):
    """Yield title, cells of the rows and config lines (as a dict) of each table."""
    for part in text.split('\n\n')[1:]:
        title, *lines = part.splitlines()
        rows = [[cell.strip() for cell in line.split('|')[1:5]] for line in lines if '|' in line]
        pasted = dict(line.rstrip(',').split('=') for line in lines if '=' in line)
        yield title, rows[1:], {key: literal_eval(value) for key, value in pasted.items()}


def test_suggestion_has_pairs_and_config_lines(demo):
    text = format_suggestion(demo, 'emkd')
    assert text.startswith('Suggested taps for emkd, outputs for one image of 64x64.')
    from_teacher, from_peers = parts_of(text)
    names = ['backbone.relu', 'backbone.layer2']
    assert from_teacher == (
        'teacher -> student_1, teacher -> student_2',
        [
            [names[0], '1x24x32x32', names[0], '1x12x32x32'],
            [names[1], '1x48x8x8', names[1], '1x24x8x8'],
        ],
        dict(source_tap=names, learner_tap=names),
    )
    assert from_peers[0] == 'student_2 -> student_1, student_1 -> student_2'
    assert [row[1] for row in from_peers[1]] == ['1x12x32x32', '1x24x8x8']
    Transfer('teacher', 'student_1', 'features', 1.0, **from_teacher[2])


def test_single_tap_is_a_name_not_a_list(demo):
    name = 'decode_head.blocks.4'
    (_, rows, pasted), _ = parts_of(format_suggestion(demo, 'cwd'))
    assert rows == [[name, '1x16x64x64', name, '1x8x64x64']]
    assert pasted == dict(source_tap=name, learner_tap=name)


def test_suggestions_for_one_member(demo):
    titles = [title for title, _, _ in parts_of(format_suggestion(demo, 'at', 'student_1'))]
    assert titles == ['teacher -> student_1', 'student_2 -> student_1, student_1 -> student_2']
    ((title, _, _),) = parts_of(format_suggestion(demo, 'at', 'teacher'))
    assert title == 'teacher -> student_1, teacher -> student_2'


def test_pairs_without_transfers_have_no_frozen_learner():
    inspection = classroom(dict(a={}, b={}, c={}), frozen=['b'])
    ((title, rows, _),) = parts_of(format_suggestion(inspection, 'fitnet'))
    assert title == 'a -> c, b -> a, b -> c, c -> a'
    assert rows == [['backbone.layer1', '1x64x8x24', 'backbone.layer1', '1x64x8x24']]
    inspection = classroom(dict(a={}, b={}, c={}), transfers=[('c', 'a'), ('c', 'a')])
    assert [title for title, _, _ in parts_of(format_suggestion(inspection, 'sp'))] == ['c -> a']


def test_sides_with_different_numbers_of_taps():
    shallow = dict(num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,))
    members = dict(a={}, b={**shallow, 'base_channels': 128})
    inspection = classroom(members, transfers=[('a', 'b')])
    with pytest.raises(
        ValueError,
        match=r"taps for at: .* \['backbone.layer1'.*layer4'\] and \['backbone.layer1'.*layer3'\]",
    ):
        format_suggestion(inspection, 'at')
    ((_, rows, pasted),) = parts_of(format_suggestion(inspection, 'semckd'))
    assert rows[2:] == [
        ['backbone.layer3', '1x256x2x6', 'backbone.layer3', '1x512x2x6'],
        ['backbone.layer4', '1x512x1x3', '', ''],
    ]
    assert [len(taps) for taps in pasted.values()] == [4, 3]


def test_invalid_suggestion_raises(demo):
    with pytest.raises(ValueError, match="member 'x': .* teacher, student_1, student_2"):
        format_suggestion(demo, 'at', 'x')
    with pytest.raises(ValueError, match="got 'vid', which is only for classification"):
        format_suggestion(demo, 'vid')
    baseline = inspect_config(Config.fromfile(CONFIGS / 'demo' / 'student_demo.py'))
    with pytest.raises(ValueError, match='expected a classroom with at least two members'):
        format_suggestion(baseline, 'at')


def test_suggestions_for_detectors(detector):
    members = dict(a=detector('retinanet'), b=detector('retinanet', seed=1))
    transfer = dict(source='a', learner='b', knowledge='features', weight=1.0)
    model = KnowledgeDistiller(members, [transfer], input_size=(64, 64), students=['b'])
    levels = [f'neck.fpn_convs.{index}' for index in range(5)]
    ((_, rows, pasted),) = parts_of(format_suggestion(inspect_model(model), 'fgd'))
    assert [row[::2] for row in rows] == [[level, level] for level in levels]
    assert pasted == dict(source_tap=levels, learner_tap=levels)
    # The loss of CWD compares one pair.
    text = format_suggestion(inspect_model(model), 'cwd')
    assert 'Write a transfer for each:' in text
    assert [line for line in text.splitlines() if 'source_tap=' in line] == [
        f"source_tap='{level}'," for level in levels
    ]
    shared = [
        row for row in tap_rows(members['a'], model.task, (64, 64)) if 'cls_convs' in row.name
    ]
    assert shared
    assert all('ran 5 times' in row.problem for row in shared)
