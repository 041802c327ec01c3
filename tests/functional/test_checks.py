import math

import pytest
import torch

from mmkdml.functional.checks import (
    check_at_least,
    check_batch_statistics,
    check_choice,
    check_feature_maps,
    check_fraction,
    check_labels,
    check_maps,
    check_mask,
    check_positive,
    check_same_shape,
)


def assert_raises(parts, check, *arguments, **options):
    with pytest.raises(ValueError, match='^Invalid ') as caught:
        check(*arguments, **options)
    assert [part for part in parts if part not in str(caught.value)] == []


def test_choice():
    check_choice('kind', 'a', ('a', 'b'))
    assert_raises(['kind', 'a, b', "'c'"], check_choice, 'kind', 'c', ('a', 'b'))
    assert_raises(['scale', 'a, b', '4'], check_choice, 'scale', 4, ('a', 'b'))


@pytest.mark.parametrize('value', [0, -1.5, math.inf, math.nan])
def test_positive(value):
    check_positive('temperature', 1e-9)
    assert_raises(['temperature', f'got {value}'], check_positive, 'temperature', value)


@pytest.mark.parametrize('value', [-0.01, 1.01, 50, math.nan])
def test_fraction(value):
    check_fraction('iou', 0)
    check_fraction('iou', 1)
    assert_raises(
        ['iou_threshold', '[0, 1]', f'got {value}'], check_fraction, 'iou_threshold', value
    )


@pytest.mark.parametrize('value', [0.99, -1, math.nan])
def test_at_least(value):
    check_at_least('exponent', 1, 1)
    check_at_least('exponent', math.inf, 1)
    assert_raises(['exponent', '1', f'got {value}'], check_at_least, 'exponent', value, 1)


@pytest.mark.parametrize('other', [(4, 2), (1, 3), (4, 3, 1, 1)])
def test_same_shape(other):
    check_same_shape(torch.zeros(4, 3), torch.ones(4, 3), 'the loss')
    parts = ['the loss', "learner's (4, 3)", f"source's {other}"]
    assert_raises(parts, check_same_shape, torch.zeros(4, 3), torch.zeros(other), 'the loss')


def test_maps():
    map_, vector = torch.zeros(2, 3, 4, 5), torch.zeros(2, 3)
    check_maps(map_, map_, 'the loss')
    assert_raises(["learner's (2, 3)", "source's (2, 3, 4, 5)"], check_maps, vector, map_, 'l')
    assert_raises(
        ['the loss', '(2, 3)', 'PredictionKLLoss'], check_maps, vector, vector, 'the loss'
    )


@pytest.mark.parametrize(
    ('first', 'second', 'same_batch', 'same_size'),
    [
        ((2, 3, 4, 5), (2, 3, 4, 5), True, True),
        ((2, 3, 4, 5), (2, 1, 4, 5), True, True),
        ((2, 3, 4, 5), (2, 3, 4, 4), True, False),
        ((2, 3, 4, 5), (2, 3, 2, 5), True, False),
        ((2, 3, 4, 5), (1, 3, 4, 5), False, False),
        ((2, 3, 4, 5), (2, 3), False, False),
        ((2, 3), (2, 3, 4, 5), False, False),
        ((2, 3), (2, 3), False, False),
        ((2, 3, 4), (2, 3, 4), False, False),
    ],
)
def test_feature_maps(first, second, same_batch, same_size):
    sides = torch.zeros(first), torch.zeros(second)
    for option, fits in ((False, same_batch), (True, same_size)):
        if fits:
            check_feature_maps(*sides, same_size=option)
        else:
            parts = [f"learner's {first}", f"source's {second}", 'N, H and W' if option else 'N']
            assert_raises(parts, check_feature_maps, *sides, same_size=option)


@pytest.mark.parametrize(
    ('wrong', 'num_classes', 'ignore_index'),
    [(2, 2, 255), (-1, 2, 255), (254, 3, 255), (255, 2, -1)],
)
def test_labels(wrong, num_classes, ignore_index):
    labels = torch.tensor([[[0, 1], [ignore_index, wrong]]])
    parts = [f'[0, {num_classes})', f'ignore_index={ignore_index}', str(wrong), 'num_classes']
    assert_raises(parts, check_labels, labels, num_classes, ignore_index)
    check_labels(labels[:, :1], num_classes, ignore_index)
    check_labels(labels[..., :1], num_classes, ignore_index)


@pytest.mark.parametrize(
    ('shape', 'training', 'valid'),
    [
        ((1, 5, 1, 1), True, False),
        ((1, 5, 1, 1), False, True),
        ((2, 5, 1, 1), True, True),
        ((1, 5, 1, 2), True, True),
    ],
)
def test_batch_statistics(shape, training, valid):
    if valid:
        check_batch_statistics(torch.zeros(shape), training)
    else:
        parts = ['batch norm', str(shape), 'batch_size', 'drop_last=True']
        assert_raises(parts, check_batch_statistics, torch.zeros(shape), training)


@pytest.mark.parametrize(
    ('mask', 'found'),
    [
        (torch.ones(2, 4, 4), 'torch.float32'),
        (torch.ones(2, 3, 4, dtype=torch.bool), r'\(2, 3, 4\)'),
        (torch.ones(2, dtype=torch.bool), r'\(2,\)'),
    ],
)
def test_mask_must_fit(mask, found):
    with pytest.raises(ValueError, match=rf'mask: expected bool \(2, 4, 4\).*{found}'):
        check_mask(mask, torch.ones(2, 3, 4, 4))
