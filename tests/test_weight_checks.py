import copy
import math

import pytest
import torch
from torch import nn

from mmkdml.weight_checks import (
    FROZEN_RECORD,
    check_finite,
    check_values,
    check_weights,
    find_misfits,
    find_wrong_types,
    select_weights,
)

NAN, INF = math.nan, math.inf


class Attention(nn.Module):
    """A network with a parameter of an unusual name and a mask filled with -inf."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer('mask', torch.full((2, 2), -INF).triu(1))


def changed(key, value):
    weights = copy.deepcopy(Attention().state_dict())
    weights[key].view(-1)[0] = value
    return weights


@pytest.mark.parametrize(
    ('key', 'value'),
    [
        ('scale', NAN), ('scale', INF), ('scale', -INF), ('norm.weight', NAN), ('norm.bias', INF),
        ('norm.running_mean', -INF), ('norm.running_var', INF), ('norm.running_var', NAN),
        ('mask', NAN),
    ],
)  # fmt: skip
def test_invalid_values_raise(key, value):
    count = (1, 0) if math.isnan(value) else (0, 1)
    size = changed(key, value)[key].numel()
    message = rf'in here .*1 tensors.*\({key}: {count[0]} NaN and {count[1]} infinite of {size} v'
    with pytest.raises(ValueError, match=message):
        check_finite(Attention(), changed(key, value), 'here')
    if key != 'scale' or math.isnan(value):  # parameters recognized by name
        with pytest.raises(ValueError, match=message):
            check_values(changed(key, value), 'here')


def test_buffers_may_be_infinite():
    check_finite(Attention(), Attention().state_dict(), 'here')
    check_values(Attention().state_dict(), 'here')


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
def test_other_precision_fits(dtype):
    network = nn.Linear(2, 1)
    weights = {key: value.to(dtype) for key, value in network.state_dict().items()}
    check_weights(network, weights, 'here', 'model')
    weights['bias'][0] = NAN
    with pytest.raises(ValueError, match='bias: 1 NaN'):
        check_weights(network, weights, 'here', 'model')


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (
            torch.zeros(1, 2, dtype=torch.int64),
            r'weight: expected torch\.float32, got torch\.int64',
        ),
        (torch.zeros(1, 2, dtype=torch.bool), r'weight: expected torch\.float32, got torch\.bool'),
        (
            torch.zeros(1, 2, dtype=torch.complex64),
            r'expected torch\.float32, got torch\.complex64',
        ),
        (torch.zeros(1, 2).to_sparse(), r'weight: .*dense tensor, got torch\.sparse_coo'),
        (torch.zeros(1, 2, device='meta'), r'weight: .*dense tensor, got a meta tensor'),
        (torch.quantize_per_tensor(torch.zeros(1, 2), 1, 0, torch.qint8), r'dense .* torch\.qint8'),
        ([[0.0, 0.0]], r'weight: expected a tensor, got list'),
        (None, r'weight: expected a tensor, got NoneType'),
    ],
)
def test_invalid_weights_raise(value, message):
    network = nn.Linear(2, 1)
    weights = {**network.state_dict(), 'weight': value}
    assert find_wrong_types(network.state_dict(), weights)
    with pytest.raises(
        ValueError, match=rf'here does not fit the model \(Linear\)(?s:.*){message}'
    ):
        check_weights(network, weights, 'here', 'model')


def test_all_misfits_are_listed():
    expected = nn.Linear(2, 1).state_dict()
    weights = dict(weight=torch.zeros(3, 2), other=torch.zeros(1))
    assert find_misfits(expected, weights) == [
        'missing: bias',
        'unexpected: other',
        'weight: expected shape (1, 2), got (3, 2)',
    ]
    assert find_misfits(expected, expected) == []


def test_record_of_frozen_members_is_not_a_weight():
    network = nn.Linear(2, 1)
    weights = network.state_dict()
    with pytest.raises(ValueError, match=f'{FROZEN_RECORD}: expected a record'):
        check_weights(network, {**weights, FROZEN_RECORD: torch.zeros(3)}, 'here', 'model')
    assert find_misfits(weights, {**weights, FROZEN_RECORD: torch.zeros(3)}) == []


class Renamed(nn.Linear):
    """Layer that loads weights of an old version with another name."""

    def _load_from_state_dict(self, state_dict, prefix, *args):
        if 'kernel' in state_dict:
            state_dict['weight'] = state_dict.pop('kernel')
        super()._load_from_state_dict(state_dict, prefix, *args)


def test_network_may_convert_old_weights():
    network = Renamed(2, 1)
    before = copy.deepcopy(network.state_dict())
    check_weights(network, dict(kernel=torch.ones(1, 2), bias=torch.ones(1)), 'here', 'model')
    assert all(torch.equal(before[key], network.state_dict()[key]) for key in before)
    with pytest.raises(ValueError, match='missing: bias'):
        check_weights(network, dict(kernel=torch.ones(1, 2)), 'here', 'model')


def test_shared_storage_is_allowed():
    weights = torch.arange(3.0)
    check_weights(nn.Linear(2, 1), dict(weight=weights[:2][None], bias=weights[2:]), 'x', 'model')


@pytest.mark.parametrize(
    ('checkpoint', 'kind'),
    [({}, 'an empty dict'), (dict(state_dict={}), 'an empty dict'), (dict(state_dict=3), 'int')],
)
def test_checkpoint_without_weights_raises(checkpoint, kind):
    with pytest.raises(ValueError, match=f'here contains no weights: expected a dict.* got {kind}'):
        select_weights(checkpoint, 'here')
    with pytest.raises(ValueError, match='here contains no weights: .* got 3'):
        select_weights({3: torch.zeros(1)}, 'here')


def test_wrapper_prefix_is_removed():
    checkpoint = dict(state_dict={'module.a': 1, 'b.module.c': 2})
    assert select_weights(checkpoint, 'here') == {'a': 1, 'b.module.c': 2}
