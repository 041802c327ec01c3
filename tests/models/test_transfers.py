import dataclasses
import math
import subprocess
import sys
from collections import OrderedDict
from importlib.util import find_spec

import pytest
from torch import nn

import mmkdml
from mmkdml.models.losses import FeatureMSELoss
from mmkdml.models.transfers import (
    Transfer,
    checked_weights,
    format_tap,
    format_transfers,
    transfers_for,
)
from mmkdml.modes import MODES, STYLES, letters_of

T, S1, S2 = 'teacher', 'student_1', 'student_2'
P, F = 'predictions', 'features'

USED = {
    'ml': ('alpha', 'gamma'),
    'kd_off': ('alpha', 'beta'),
    'kd_on': ('alpha', 'beta'),
    'kdml': ('alpha', 'beta', 'gamma'),
}
# Six different numbers, so that none can be confused.
ALL_WEIGHTS = dict(alpha=(0.11, 0.12), beta=(0.21, 0.22), gamma=(0.31, 0.32))


def weights_of(mode, **changes):
    return {letter: ALL_WEIGHTS[letter] for letter in USED[mode]} | changes


def test_modes_and_styles(paper_transfers):
    assert MODES == ('ml', 'kd_off', 'kd_on', 'kdml')
    assert STYLES == ('v1', 'v2', 'v3')
    assert set(paper_transfers) == {(mode, style) for mode in MODES for style in STYLES}


@pytest.mark.parametrize('mode', MODES)
def test_letters(mode):
    assert letters_of(mode) == USED[mode]


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('mode', MODES)
def test_transfers_equal_the_papers_table(mode, style, paper_transfers):
    rows = paper_transfers[mode, style]
    transfers = transfers_for(mode, style, weights_of(mode))
    expected = [
        Transfer(source, learner, knowledge, ALL_WEIGHTS[letter][(S1, S2).index(learner)])
        for source, learner, knowledge, letter in rows
    ]
    assert transfers == expected
    assert [transfer.key for transfer in transfers] == [
        f'{learner}.loss_from_{source}.{knowledge}' for source, learner, knowledge, _ in rows
    ]
    for transfer in transfers:
        assert (transfer.loss, transfer.projector, transfer.source_tap, transfer.learner_tap) == (
            None,
        ) * 4


@pytest.mark.parametrize(
    ('mode', 'style', 'weights', 'rows'),
    [
        # Table 3, ResNet18 on histopathology.
        (
            'kdml',
            'v1',
            dict(alpha=(0.1, 0.2), beta=(0.45, 0.4), gamma=(0.45, 0.4)),
            [
                'teacher -> student_1 predictions 0.45 PredictionKLLoss',
                'student_2 -> student_1 predictions 0.45 PredictionKLLoss',
                'teacher -> student_2 predictions 0.4 PredictionKLLoss',
                'student_1 -> student_2 predictions 0.4 PredictionKLLoss',
            ],
        ),
        (
            'kdml',
            'v3',
            dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3)),
            [
                'teacher -> student_1 features 0.4 FeatureMSELoss',
                'student_2 -> student_1 predictions 0.4 PredictionKLLoss',
                'teacher -> student_2 predictions 0.3 PredictionKLLoss',
                'student_1 -> student_2 features 0.3 FeatureMSELoss',
            ],
        ),
        (
            'ml',
            'v3',
            dict(alpha=(0.1, 0.2), beta=(0, 0), gamma=(0.9, 0.8)),
            [
                'student_2 -> student_1 predictions 0.9 PredictionKLLoss',
                'student_1 -> student_2 features 0.8 FeatureMSELoss',
            ],
        ),
        (
            'kd_on',
            'v3',
            dict(alpha=(0.1, 0.2), beta=(0.9, 0.8), gamma=(0, 0)),
            [
                'teacher -> student_1 predictions 0.9 PredictionKLLoss',
                'teacher -> student_2 features 0.8 FeatureMSELoss',
            ],
        ),
        # Table 4, ResNet18 on MRI.
        (
            'kd_off',
            'v2',
            dict(alpha=(0.2, 0.2), beta=(0.8, 0.8), gamma=(0, 0)),
            [
                'teacher -> student_1 features 0.8 FeatureMSELoss',
                'teacher -> student_2 features 0.8 FeatureMSELoss',
            ],
        ),
        (
            'kdml',
            'v3',
            dict(alpha=(0.1, 0.1), beta=(0.45, 0.45), gamma=(0.45, 0.45)),
            [
                'teacher -> student_1 features 0.45 FeatureMSELoss',
                'student_2 -> student_1 predictions 0.45 PredictionKLLoss',
                'teacher -> student_2 predictions 0.45 PredictionKLLoss',
                'student_1 -> student_2 features 0.45 FeatureMSELoss',
            ],
        ),
    ],
)
def test_rows_of_published_weights(mode, style, weights, rows):
    assert [repr(transfer) for transfer in transfers_for(mode, style, weights)] == rows
    for index in range(2):
        assert sum(pair[index] for pair in weights.values()) == pytest.approx(1)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('left', ['out', None, (0, 0), [0.0, 0.0]])
def test_unused_letters_may_be_omitted_none_or_zero(mode, left):
    weights = weights_of(mode)
    for letter in set(ALL_WEIGHTS) - set(weights):
        if left != 'out':
            weights[letter] = left
    assert checked_weights(mode, weights) == weights_of(mode)
    assert transfers_for(mode, 'v3', weights) == transfers_for(mode, 'v3', weights_of(mode))


def test_checked_weights_are_pairs_of_floats():
    weights = OrderedDict(gamma=[1, 0], alpha=[0.5, 2], beta=None)
    checked = checked_weights('ml', weights)
    assert checked == dict(alpha=(0.5, 2.0), gamma=(1.0, 0.0))
    assert all(type(weight) is float for pair in checked.values() for weight in pair)
    assert weights == OrderedDict(gamma=[1, 0], alpha=[0.5, 2], beta=None)


def test_transfers_of_weight_zero_are_returned():
    transfers = transfers_for('kdml', 'v3', dict(alpha=(1, 1), beta=(0, 0), gamma=(0, 0)))
    assert [transfer.weight for transfer in transfers] == [0] * 4


def test_weights_need_not_sum_to_one():
    transfers = transfers_for('ml', 'v1', dict(alpha=(1, 1), gamma=(3, 100)))
    assert [transfer.weight for transfer in transfers] == [3, 100]


@pytest.mark.parametrize('mode', ['KDML', 'kd', '', None, 3])
def test_unknown_mode_raises(mode):
    message = f'mode must be one of ml, kd_off, kd_on, kdml; got {mode!r}'
    with pytest.raises(ValueError, match=message):
        transfers_for(mode, 'v1', ALL_WEIGHTS)
    with pytest.raises(ValueError, match=message):
        checked_weights(mode, ALL_WEIGHTS)


@pytest.mark.parametrize('style', ['v4', 'V1', 3, None])
def test_unknown_style_raises(style):
    with pytest.raises(ValueError, match=f'style must be one of v1, v2, v3; got {style!r}'):
        transfers_for('ml', style, ALL_WEIGHTS)


@pytest.mark.parametrize('mode', MODES)
def test_unknown_letter_raises(mode):
    with pytest.raises(
        ValueError, match="A key of weights must be one of alpha, beta, gamma; got 'delta'"
    ):
        transfers_for(mode, 'v1', weights_of(mode, delta=(0, 0)))


@pytest.mark.parametrize('weights', [None, (0.1, 0.2), 0.5, 'alpha'])
def test_weights_that_are_not_a_dict_raise(weights):
    with pytest.raises(ValueError, match='weights must be a dict with alpha, beta, gamma; got '):
        transfers_for('kdml', 'v1', weights)


@pytest.mark.parametrize('letter', ['alpha', 'beta', 'gamma'])
@pytest.mark.parametrize(
    ('pair', 'message'),
    [
        ((-0.1, 0.5), 'finite and at least 0, got -0.1'),
        ((0.5, -1), 'finite and at least 0, got -1'),
        ((math.nan, 0.5), 'finite and at least 0, got nan'),
        ((0.5, math.inf), 'finite and at least 0, got inf'),
        ((True, 0.5), 'must be a number, got True'),
        (('0.5', 0.5), "must be a number, got '0.5'"),
        ((0.5, None), 'must be a number, got None'),
        ((0.5,), r'must be two weights, one per student.*got \(0.5,\)'),
        ((0.1, 0.2, 0.3), r'must be two weights, one per student.*got \(0.1, 0.2, 0.3\)'),
        ((), r'must be two weights, one per student.*got \(\)'),
        (0.5, 'must be two weights, one per student.*got 0.5'),
        ('45', "must be two weights, one per student.*got '45'"),
        ({0.4, 0.5}, 'must be two weights, one per student.*got {0'),
    ],
)
def test_invalid_weights_raise(letter, pair, message):
    with pytest.raises(ValueError, match=f'^{letter} .*{message}'):
        transfers_for('kdml', 'v1', weights_of('kdml', **{letter: pair}))


@pytest.mark.parametrize('pair', [(-1, 0), (math.nan, 0), (0, math.inf), (False, 0), (0,)])
def test_invalid_unused_weights_raise(pair):
    with pytest.raises(ValueError, match='^beta '):
        transfers_for('ml', 'v1', weights_of('ml', beta=pair))


@pytest.mark.parametrize('pair', [(0.1, 0), (0, 0.1), [0.4, 0.4]])
@pytest.mark.parametrize(
    ('mode', 'letter', 'lacks', 'uses'),
    [
        ('ml', 'beta', 'teacher', 'alpha, gamma'),
        ('kd_off', 'gamma', 'transfer between peers', 'alpha, beta'),
        ('kd_on', 'gamma', 'transfer between peers', 'alpha, beta'),
    ],
)
def test_unused_weights_raise(mode, letter, lacks, uses, pair):
    with pytest.raises(
        ValueError, match=f"weights of mode '{mode}': expected {uses}, got {letter}=.* no {lacks}"
    ):
        transfers_for(mode, 'v1', weights_of(mode, **{letter: pair}))


@pytest.mark.parametrize('how', ['out', 'none'])
@pytest.mark.parametrize(('mode', 'letter'), [(m, letter) for m in USED for letter in USED[m]])
def test_missing_letter_raises(mode, letter, how):
    weights = weights_of(mode, **{letter: None})
    if how == 'out':
        del weights[letter]
    with pytest.raises(
        ValueError,
        match=f"weights of mode '{mode}': expected {', '.join(USED[mode])}, missing: {letter}$",
    ):
        transfers_for(mode, 'v1', weights)


def test_all_missing_letters_are_named():
    with pytest.raises(ValueError, match='missing: alpha, beta, gamma$'):
        transfers_for('kdml', 'v1', {})


def test_custom_transfer():
    transfer = Transfer('a', 'b', F, 2, source_tap='layer1', learner_tap='layer2')
    assert (transfer.source, transfer.learner, transfer.knowledge, transfer.weight) == (
        'a',
        'b',
        F,
        2,
    )
    assert transfer.key == 'b.loss_from_a.features'
    with pytest.raises(dataclasses.FrozenInstanceError):
        transfer.weight = 1


@pytest.mark.parametrize('knowledge', ['logits', 'prediction', '', None])
def test_unknown_knowledge_raises(knowledge):
    with pytest.raises(
        ValueError,
        match=f'a -> b: knowledge must be one of predictions, features, got {knowledge!r}',
    ):
        Transfer('a', 'b', knowledge, 1)


@pytest.mark.parametrize(
    ('weight', 'message'),
    [
        (-1, 'must be finite and at least 0, got -1'),
        (math.nan, 'must be finite and at least 0, got nan'),
        (math.inf, 'must be finite and at least 0, got inf'),
        (-math.inf, 'must be finite and at least 0, got -inf'),
        (True, 'must be a number, got True'),
        ('1', "must be a number, got '1'"),
        (None, 'must be a number, got None'),
    ],
)
def test_invalid_weight_of_a_transfer_raises(weight, message):
    with pytest.raises(ValueError, match=rf'The weight of a -> b \(features\) {message}'):
        Transfer('a', 'b', F, weight)


def test_transfer_to_itself_raises():
    with pytest.raises(ValueError, match='Invalid transfer a -> a'):
        Transfer('a', 'a', P, 1)


@pytest.mark.parametrize('tap', ['backbone', ['backbone', 'neck']])
@pytest.mark.parametrize('side', ['source_tap', 'learner_tap'])
def test_taps_of_predictions_raise(side, tap):
    with pytest.raises(
        ValueError, match='Invalid transfer a -> b: .*Remove source_tap and learner_tap'
    ):
        Transfer('a', 'b', P, 1, **{side: tap})


@pytest.mark.parametrize(
    ('options', 'text'),
    [
        (dict(), 'FeatureMSELoss'),
        (dict(loss=dict(type='L1Loss')), 'L1Loss'),
        (dict(loss=dict(type=FeatureMSELoss)), 'FeatureMSELoss'),
        (dict(loss=nn.SmoothL1Loss()), 'SmoothL1Loss'),
        (dict(loss=dict(reduction='sum')), 'untyped'),
        (
            dict(projector=dict(type='ConvProjector', side='source')),
            'FeatureMSELoss projector=ConvProjector',
        ),
        (dict(source_tap='neck'), 'FeatureMSELoss taps=neck:default'),
        (dict(learner_tap='neck'), 'FeatureMSELoss taps=default:neck'),
        (
            dict(projector=nn.Identity(), source_tap='a.1', learner_tap='b.2'),
            'FeatureMSELoss projector=Identity taps=a.1:b.2',
        ),
        (dict(source_tap=['a', 'b.0'], learner_tap=['c']), 'FeatureMSELoss taps=a+b.0:c'),
        (dict(learner_tap=('a', 'b')), 'FeatureMSELoss taps=default:a+b'),
    ],
)
def test_repr_is_a_row_of_the_table(options, text):
    assert repr(Transfer('a', 'b', F, 0.25, **options)) == f'a -> b features 0.25 {text}'


def test_several_taps_are_copied_to_a_tuple():
    taps = ['a', 'b']
    transfer = Transfer('s', 't', F, 1, source_tap=taps, learner_tap=('c',))
    taps.append('d')
    assert transfer.source_tap == ('a', 'b')
    assert transfer.learner_tap == ('c',)
    assert Transfer('s', 't', F, 1, source_tap='a').source_tap == 'a'
    assert transfer == Transfer('s', 't', F, 1, source_tap=('a', 'b'), learner_tap=['c'])


@pytest.mark.parametrize('side', ['source_tap', 'learner_tap'])
@pytest.mark.parametrize('tap', [[], (), 3, ['a', 3], [None], [['a']], {'a': 1}, {'a'}])
def test_invalid_tap_raises(side, tap):
    with pytest.raises(
        ValueError,
        match=f'{side} must be the dotted name of a module, or a list of such names; got',
    ):
        Transfer('a', 'b', F, 1, **{side: tap})


def test_format_of_taps():
    assert format_tap('a.b') == 'a.b'
    assert format_tap(('a', 'b.c')) == 'a+b.c'
    assert format_tap(None) == 'default'
    assert format_tap(('a',)) == 'a'


def test_formatted_transfers_are_aligned():
    transfers = [
        Transfer(T, S1, F, 0.45, projector=dict(type='ConvProjector')),
        Transfer(S2, S1, P, 1),
    ]
    assert format_transfers(transfers).split('\n') == [
        'teacher    ->  student_1  features     0.45  FeatureMSELoss    projector=ConvProjector',
        'student_2  ->  student_1  predictions  1     PredictionKLLoss',
    ]
    assert format_transfers([]) == ''


LINEAR = dict(type='LinearWeight', start_factor=0.0, end=5)
STEPS = dict(type='MultiStepWeight', milestones=[8], gamma=0.0)


@pytest.mark.parametrize('schedule', [LINEAR, [LINEAR, STEPS]])
def test_weight_with_a_schedule(schedule):
    row = Transfer(T, S1, F, dict(base=0.45, schedule=schedule))
    assert row == Transfer(T, S1, F, 0.45, schedule=schedule)
    assert row.weight == 0.45
    assert row.schedule == ((LINEAR, STEPS) if isinstance(schedule, list) else (LINEAR,))
    assert dataclasses.replace(row, learner=S2).schedule == row.schedule
    assert 'schedule=LinearWeight(start_factor=0.0, end=5)' in str(row)
    assert row.weight_key(f'{row.key}_2') == 'student_1.weight_from_teacher.features_2'
    assert Transfer(T, S1, F, 0.45).schedule == ()


@pytest.mark.parametrize(
    ('arguments', 'fact'),
    [
        (dict(weight=dict(base=0.5)), r'teacher -> student_1 \(features\).*base=.*schedule='),
        (dict(weight=LINEAR), "got {'type': 'LinearWeight'"),
        (dict(weight=dict(base=0.5, schedule=LINEAR), schedule=LINEAR), 'another schedule'),
        (dict(weight=dict(base=-1, schedule=LINEAR)), 'at least 0, got -1'),
        (dict(weight=0.5, schedule=dict(end=5)), "invalid schedule.*'end': 5"),
    ],
)
def test_invalid_weights_with_a_schedule_raise(arguments, fact):
    with pytest.raises(ValueError, match=fact):
        Transfer(T, S1, F, **arguments)


@pytest.mark.parametrize(
    ('weight', 'schedule', 'off'),
    [
        (0, None, True),
        (0, LINEAR, True),
        (0, dict(type='CosineAnnealingWeight', eta_min=0.1), False),
        (0.1, STEPS, False),
    ],
)
def test_transfers_that_are_always_off(weight, schedule, off):
    assert Transfer(T, S1, F, weight, schedule=schedule).is_off is off


def test_schedules_of_a_mode():
    rows = transfers_for(
        'kdml', 'v3', weights_of('kdml'), dict(beta=LINEAR, gamma=dict(student_2=STEPS))
    )
    assert [row.schedule for row in rows] == [(LINEAR,), (), (LINEAR,), (STEPS,)]


def test_module_imports_no_framework():
    script = """
import runpy, sys
sys.modules['plain'] = type(sys)('plain')  # dataclasses look up names there
sys.modules['mmkdml'] = type(sys)('mmkdml')  # without its imports
sys.modules['mmkdml'].__path__ = [sys.argv[2]]
table = runpy.run_path(sys.argv[1], run_name='plain')
assert len(table['transfers_for']('ml', 'v1', dict(alpha=(1, 1), gamma=(1, 1)))) == 2
print(sorted({'torch', 'numpy', 'mmengine', 'mmpretrain', 'mmseg'} & set(sys.modules)))
"""
    path = find_spec('mmkdml.models.transfers').origin
    done = subprocess.run(
        [sys.executable, '-c', script, path, mmkdml.__path__[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ('[]\n', '')


def test_resize_is_shown_and_checked():
    row = Transfer('a', 'b', 'predictions', 1.0, resize='source')
    assert row.columns()[-1] == 'resize=source'
    with pytest.raises(ValueError, match=r"a -> b: resize must be source or learner.*'both'"):
        Transfer('a', 'b', 'predictions', 1.0, resize='both')
