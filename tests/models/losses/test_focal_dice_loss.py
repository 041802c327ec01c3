import pytest
import torch
from torch import nn

import mmkdml  # noqa: F401

# isort: split
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.models.losses.dice_loss import dice_loss
from mmseg.structures import SegDataSample

from mmkdml.functional import focal_and_dice
from mmkdml.models.losses import FocalDiceLoss
from mmkdml.registry import MODELS


def example(num_logits=3, dtype=torch.float64):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, num_logits, 4, 5, generator=rng, dtype=dtype)
    labels = torch.randint(max(num_logits, 2), (2, 4, 5), generator=rng)
    labels[0, 0, :2] = 255
    return logits, labels


@pytest.mark.parametrize('num_logits', [1, 2, 3])
def test_the_default_is_the_plain_sum_with_tau_2(num_logits):
    logits, labels = example(num_logits)
    torch.testing.assert_close(
        FocalDiceLoss()(logits, labels), sum(focal_and_dice(logits, labels, focusing=2.0))
    )


def test_the_weights():
    logits, labels = example()
    focal, dice = focal_and_dice(logits, labels, focusing=1.0)
    loss = MODELS.build(
        dict(type='FocalDiceLoss', focusing=1.0, focal_weight=0.3, dice_weight=0.5, loss_weight=7)
    )
    torch.testing.assert_close(loss(logits, labels), 7 * (0.3 * focal + 0.5 * dice))


def test_dice_equals_mmseg_where_they_overlap():
    # One foreground class and the whole batch as one sample.
    logits, labels = example(1)
    labels = labels.where(labels != 255, 0)
    flat = logits.sigmoid().view(1, 1, -1, 1), labels.view(1, 1, -1, 1)
    reference = dice_loss(*flat, weight=None, eps=1e-12, ignore_index=None)
    torch.testing.assert_close(FocalDiceLoss(focal_weight=0)(logits, labels), reference)


def test_pixel_weights_and_ignored_labels_are_handed_on():
    logits, labels = example()
    weights = torch.linspace(0, 1, labels.numel(), dtype=torch.float64).view_as(labels)
    value = FocalDiceLoss()(logits, labels.where(labels != 255, 9), weight=weights, ignore_index=9)
    torch.testing.assert_close(value, sum(focal_and_dice(logits, labels, pixel_weights=weights)))
    assert abs(value - FocalDiceLoss()(logits, labels)) > 1e-3


@pytest.mark.parametrize(
    ('num_classes', 'options'), [(2, dict(out_channels=1, threshold=0.5)), (2, {}), (3, {})]
)
def test_in_a_decode_head_of_mmseg(num_classes, options):
    head = FCNHead(
        in_channels=4,
        channels=4,
        num_convs=1,
        num_classes=num_classes,
        ignore_index=254,
        dropout_ratio=0,
        **options,
        loss_decode=[
            dict(type=FocalDiceLoss, loss_weight=2.0),
            dict(type=FocalDiceLoss, loss_name='loss_more'),
        ],
    )
    maps = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(num_classes, (2, 1, 5, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = 254
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    losses = head.loss([maps], samples, train_cfg={})
    logits = head([maps])
    expected = sum(focal_and_dice(logits, labels.squeeze(1), ignore_index=254))
    torch.testing.assert_close(losses['loss_focal_dice'], 2 * expected)
    torch.testing.assert_close(losses['loss_more'], expected)
    losses['loss_focal_dice'].backward()
    assert all((parameter.grad != 0).any() for parameter in head.parameters())


@pytest.mark.parametrize('name', ['focal_dice', 'Loss', ''])
def test_its_name_must_say_that_it_is_optimised(name):
    with pytest.raises(ValueError, match=f'loss_name must begin with "loss", .*got {name!r}'):
        FocalDiceLoss(loss_name=name)


def test_it_is_a_module_without_state():
    loss = FocalDiceLoss(loss_name='loss_of_eq_8')
    assert isinstance(loss, nn.Module)
    assert loss.loss_name == 'loss_of_eq_8'
    assert not loss.state_dict()
