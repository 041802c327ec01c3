import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import attention_difference
from mmkdml.models.losses import AttentionTransferLoss
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT = gen((4, 6, 8, 8), 0.017, 0.9, 1, 0.3)
FT10 = gen((4, 10, 4, 4), 0.023, 0.5, 1, 0.3)


def test_values_of_the_reference_implementation():
    learner = FS.clone().requires_grad_()
    value = AttentionTransferLoss()(learner, FT)
    value.backward()
    assert value.item() == pytest.approx(7.64744552856658e-05, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.0002204631943269485, rel=1e-9)


@pytest.mark.parametrize('exponent', [2, 4.0])
@pytest.mark.parametrize('reference', ['simkd', 'paper'])
def test_the_sum_over_pairs_of_taps_of_any_size(reference, exponent):
    loss = MODELS.build(dict(type='AttentionTransferLoss', reference=reference, exponent=exponent))
    assert not loss.requires_same_shape
    assert not loss.state_dict()
    pairs = (FS, FT), (FS, FT10), (FT10, FS)
    expected = sum(attention_difference(*pair, exponent, reference) for pair in pairs)
    torch.testing.assert_close(loss(*map(list, zip(*pairs, strict=True))), expected)
    assert loss([FS, FT10], (FS.clone(), FT10.clone())) == 0


def test_the_default():
    loss = AttentionTransferLoss()
    assert torch.equal(loss(FS, FT), attention_difference(FS, FT, 2, 'simkd'))
    assert repr(loss) == "AttentionTransferLoss(exponent=2.0, reference='simkd')"


def test_bad_input():
    with pytest.raises(ValueError, match='exponent must be at least 1, got 0'):
        AttentionTransferLoss(exponent=0)
    with pytest.raises(ValueError, match="reference must be one of simkd, paper; got 'cwd'"):
        AttentionTransferLoss(reference='cwd')
    with pytest.raises(ValueError, match='got 2 of the learner and 1 of the source'):
        AttentionTransferLoss()([FS, FS], FT)
    with pytest.raises(ValueError, match=r'Expected two feature maps .*learner\'s \(4, 6\)'):
        AttentionTransferLoss()(FS[..., 0, 0], FT[..., 0, 0])
