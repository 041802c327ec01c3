"""FocalDiceLoss and FocalSmoothDiceLoss, which share everything but their terms and weights."""

import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.models.losses.dice_loss import dice_loss
from mmseg.structures import SegDataSample

from mmkdml.functional import focal_and_dice, focal_and_smooth_dice
from mmkdml.models.losses import FocalDiceLoss, FocalSmoothDiceLoss
from mmkdml.registry import MODELS

# The class, its terms, the default weight of each term and its default name.
both_losses = pytest.mark.parametrize(
    ('kind', 'terms_of', 'share', 'name'),
    [
        (FocalDiceLoss, focal_and_dice, 1.0, 'loss_focal_dice'),
        (FocalSmoothDiceLoss, focal_and_smooth_dice, 0.5, 'loss_focal_smooth_dice'),
    ],
)


def example(num_logits=3):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, num_logits, 4, 5, generator=rng, dtype=torch.float64)
    labels = torch.randint(max(num_logits, 2), (2, 4, 5), generator=rng)
    labels[0, 0, :2] = 255
    return logits, labels


@both_losses
@pytest.mark.parametrize('num_logits', [1, 2, 3])
def test_defaults(num_logits, kind, terms_of, share, name):
    logits, labels = example(num_logits)
    expected = share * sum(terms_of(logits, labels, focusing=2.0))
    torch.testing.assert_close(kind()(logits, labels), expected)
    assert kind().loss_name == name


@both_losses
def test_options_are_applied(kind, terms_of, share, name):
    logits, labels = example()
    weights = torch.linspace(0, 1, labels.numel(), dtype=torch.float64).view_as(labels)
    loss = MODELS.build(
        dict(
            type=kind.__name__,
            focusing=1.0,
            focal_weight=0.3,
            dice_weight=0.6,
            loss_weight=7,
            loss_name='loss_of_a_head',
        )
    )
    focal, dice = terms_of(logits, labels, 1.0, pixel_weights=weights)
    value = loss(logits, labels.where(labels != 255, 9), weight=weights, ignore_index=9)
    torch.testing.assert_close(value, 7 * (0.3 * focal + 0.6 * dice))
    assert abs(value - loss(logits, labels)) > 1e-3
    assert loss.loss_name == 'loss_of_a_head'


def test_dice_matches_mmseg_for_one_class_and_one_sample():
    logits, labels = example(1)
    labels = labels.where(labels != 255, 0)
    flat = logits.sigmoid().view(1, 1, -1, 1), labels.view(1, 1, -1, 1)
    reference = dice_loss(*flat, weight=None, eps=1e-12, ignore_index=None)
    torch.testing.assert_close(FocalDiceLoss(focal_weight=0)(logits, labels), reference)


def test_reference_changes_the_gradient():
    logits, labels = example()
    gradients = []
    for options in ({}, dict(reference='emkd'), dict(reference='origin')):
        z = logits.clone().requires_grad_()
        FocalSmoothDiceLoss(**options)(z, labels).backward()
        gradients.append(z.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0] - gradients[2]).abs().max() > 1e-3


@both_losses
@pytest.mark.parametrize(
    ('num_classes', 'options'), [(2, dict(out_channels=1, threshold=0.5)), (2, {}), (3, {})]
)
def test_in_a_decode_head_of_mmseg(num_classes, options, kind, terms_of, share, name):
    head = FCNHead(
        in_channels=4,
        channels=4,
        num_convs=1,
        num_classes=num_classes,
        ignore_index=254,
        dropout_ratio=0,
        **options,
        loss_decode=[dict(type=kind, loss_weight=2.0), dict(type=kind, loss_name='loss_more')],
    )
    maps = torch.randn(2, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(num_classes, (2, 1, 5, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0, 0] = 254
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]
    losses = head.loss([maps], samples, train_cfg={})
    expected = share * sum(terms_of(head([maps]), labels.squeeze(1), ignore_index=254))
    torch.testing.assert_close(losses[name], 2 * expected)
    torch.testing.assert_close(losses['loss_more'], expected)
    losses[name].backward()
    assert all((parameter.grad != 0).any() for parameter in head.parameters())
