import pytest
import torch

import mmkdml  # noqa: F401

# isort: split
from mmengine.structures import PixelData
from mmseg.models.decode_heads import FCNHead
from mmseg.structures import SegDataSample

from mmkdml.functional.segmentation import focal_and_smooth_dice
from mmkdml.models.losses.emkd_segmentation import FocalSmoothDiceLoss
from mmkdml.registry import MODELS


def example(num_logits=3):
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, num_logits, 4, 5, generator=rng, dtype=torch.float64)
    labels = torch.randint(max(num_logits, 2), (2, 4, 5), generator=rng)
    labels[0, 0, :2] = 255
    return logits, labels


@pytest.mark.parametrize('num_logits', [1, 2, 3])
def test_the_default_is_half_and_half(num_logits):
    logits, labels = example(num_logits)
    focal, dice = focal_and_smooth_dice(logits, labels, focusing=2.0)
    torch.testing.assert_close(FocalSmoothDiceLoss()(logits, labels), focal / 2 + dice / 2)


def test_options_reach_the_terms():
    logits, labels = example()
    weights = torch.linspace(0, 1, labels.numel(), dtype=torch.float64).view_as(labels)
    loss = MODELS.build(
        dict(
            type='FocalSmoothDiceLoss',
            focusing=1.0,
            focal_weight=0.3,
            dice_weight=0.6,
            loss_weight=7,
            loss_name='loss_emkd',
        )
    )
    focal, dice = focal_and_smooth_dice(logits, labels, 1.0, pixel_weights=weights)
    value = loss(logits, labels.where(labels != 255, 9), weight=weights, ignore_index=9)
    torch.testing.assert_close(value, 7 * (0.3 * focal + 0.6 * dice))
    assert loss.loss_name == 'loss_emkd'
    assert not loss.state_dict()


def test_the_reference_decides_on_the_gradient():
    logits, labels = example()
    gradients = []
    for options in ({}, dict(reference='emkd'), dict(reference='origin')):
        z = logits.clone().requires_grad_()
        FocalSmoothDiceLoss(**options)(z, labels).backward()
        gradients.append(z.grad)
    assert torch.equal(gradients[0], gradients[1])
    assert (gradients[0] - gradients[2]).abs().max() > 1e-3


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
        loss_decode=dict(type=FocalSmoothDiceLoss),
    )
    maps = torch.randn(2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(num_classes, (2, 6, 5), generator=torch.Generator().manual_seed(1))
    labels[0, 0] = 254
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label[None])) for label in labels]
    loss = head.loss([maps], samples, train_cfg={})['loss_focal_smooth_dice']
    focal, dice = focal_and_smooth_dice(head([maps]), labels, ignore_index=254)
    torch.testing.assert_close(loss, (focal + dice) / 2)
    loss.backward()
    assert all((parameter.grad != 0).any() for parameter in head.parameters())


def test_bad_input():
    with pytest.raises(ValueError, match='loss_name must begin with "loss", .*got \'emkd\''):
        FocalSmoothDiceLoss(loss_name='emkd')
    with pytest.raises(ValueError, match="reference must be one of emkd, origin; got 'paper'"):
        FocalSmoothDiceLoss(reference='paper')
    with pytest.raises(ValueError, match=r'in \[0, 2\) or 255 \(ignored\), got \[0, 2\]'):
        FocalSmoothDiceLoss()(torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 2]]]))
