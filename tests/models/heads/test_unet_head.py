import re

import pytest
import segmentation_models_pytorch as smp
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, FCNHead
from mmseg.structures import SegDataSample

from mmkdml.functional import focal_and_dice
from mmkdml.models import FocalDiceLoss, PretrainedTIMMBackbone, StemResNet, UNetHead

RESNET18 = dict(type=StemResNet, depth=18)
RESNET50 = dict(type=StemResNet, depth=50)
MOBILENET = dict(
    type=PretrainedTIMMBackbone,
    model_name='mobilenetv1_100',
    features_only=True,
    out_indices=(0, 1, 2, 3, 4),
)
TINY = dict(RESNET18, base_channels=8, stem_channels=8)
TINY_CHANNELS = (8, 8, 16, 32, 64)
TINY_WIDTHS = (16, 8, 8, 4, 4)

# Name in segmentation_models_pytorch, backbone, channels, and millions of parameters in the paper.
NETWORKS = {
    'resnet18': (RESNET18, (64, 64, 128, 256, 512), 14),
    'resnet50': (RESNET50, (64, 256, 512, 1024, 2048), 33),
    'tu-mobilenetv1_100': (MOBILENET, (64, 128, 256, 512, 1024), 8),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def unet(backbone, in_channels, auxiliary_head=None, **head):
    head = dict(dict(type=UNetHead, in_channels=in_channels, num_classes=2, out_channels=1), **head)
    return EncoderDecoder(
        backbone=backbone,
        decode_head=head,
        auxiliary_head=auxiliary_head,
        test_cfg=ConfigDict(mode='whole'),
    )


def tiny_unet(**kwargs):
    return unet(TINY, TINY_CHANNELS, **dict(dict(widths=TINY_WIDTHS), **kwargs))


def our_key(key):
    """Convert the name of a weight of segmentation_models_pytorch's U-Net."""
    for theirs, ours in (
        (r'^encoder\.model\.', 'backbone.timm_model.'),
        (r'^encoder\.', 'backbone.'),
        (r'^decoder\.blocks\.(\d)\.conv([12])\.0\.', r'decode_head.blocks.\1.conv\2.conv.'),
        (r'^decoder\.blocks\.(\d)\.conv([12])\.1\.', r'decode_head.blocks.\1.conv\2.bn.'),
        (r'^segmentation_head\.0\.', 'decode_head.conv_seg.'),
    ):
        key, replaced = re.subn(theirs, ours, key)
        if replaced:
            return key
    raise KeyError(key)


def samples(labels):
    size = labels.shape[1:]
    return [
        SegDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size),
            gt_sem_seg=PixelData(data=label[None]),
        )
        for label in labels
    ]


def scrambled(network):
    """Set weights and statistics to other values than the initial ones."""
    for value in network.state_dict().values():
        if value.dtype.is_floating_point and value.ndim == 1:
            value.uniform_(0.5, 1.5)
    return network


@pytest.mark.parametrize(
    ('name', 'size'),
    [('resnet18', (96, 64)), ('resnet50', (64, 64)), ('tu-mobilenetv1_100', (64, 96))],
)
def test_equals_segmentation_models_pytorch(name, size):
    backbone, channels, _ = NETWORKS[name]
    theirs = scrambled(smp.Unet(name, encoder_weights=None, classes=1))
    ours = unet(backbone, channels)
    ours.load_state_dict(
        {our_key(key): value for key, value in theirs.state_dict().items()}, strict=True
    )
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images), rtol=1e-5, atol=1e-5)

    weights = torch.randn(2, 1, *size)
    gradients = []
    for network in (ours.train(), theirs.train()):
        inputs = images.clone().requires_grad_()
        (network(inputs) * weights).sum().backward()
        gradients.append(inputs.grad)
    assert gradients[1].abs().max() > 1e-3
    assert (gradients[0] - gradients[1]).abs().max() <= 1e-5 * gradients[1].abs().max()


@pytest.mark.parametrize('name', NETWORKS)
def test_sizes_of_network_and_shared_map(name):
    backbone, channels, millions = NETWORKS[name]
    ours = unet(backbone, channels).eval().to('meta')  # shapes only
    theirs = smp.Unet(name, encoder_weights=None, classes=1)
    parameters = sum(p.numel() for p in ours.parameters())
    assert parameters == sum(p.numel() for p in theirs.parameters())
    assert parameters == pytest.approx(millions * 1e6, rel=0.05)
    shapes = []
    for block in ours.decode_head.blocks:
        block.register_forward_hook(lambda m, i, o: shapes.append(tuple(o.shape[1:])))
    assert ours(torch.empty(1, 3, 256, 256, device='meta')).shape == (1, 1, 256, 256)
    assert shapes == [(256, 16, 16), (128, 32, 32), (64, 64, 64), (32, 128, 128), (16, 256, 256)]


@pytest.mark.parametrize(
    ('size', 'out'),
    [
        ((64, 64), (64, 64)),
        ((50, 70), (50, 70)),
        ((2, 6), (2, 6)),
        # The stem rounds half of an odd side up, and mmseg resizes to the image.
        ((51, 71), (52, 72)),
        ((1, 33), (2, 34)),
    ],
)
def test_images_of_any_size(size, out):
    network = tiny_unet().eval()
    images = torch.randn(2, 3, *size)
    assert network(images).shape == (2, 1, *out)
    assert network.predict(images)[0].pred_sem_seg.data.shape == (1, *size)


def test_odd_sizes_train():
    network = tiny_unet(loss_decode=dict(type=FocalDiceLoss))
    losses = network.loss(torch.randn(2, 3, 51, 71), samples(torch.randint(2, (2, 51, 71))))
    losses['decode.loss_focal_dice'].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_one_logit_with_focal_and_dice():
    network = tiny_unet(loss_decode=dict(type=FocalDiceLoss)).eval()
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(2, (2, 32, 32))
    losses = network.loss(images, samples(labels))
    torch.testing.assert_close(
        losses['decode.loss_focal_dice'], sum(focal_and_dice(network(images), labels))
    )


def test_one_logit_has_threshold_one_half():
    network = tiny_unet().eval()
    assert network.decode_head.threshold == 0.5
    images = torch.randn(2, 3, 32, 32)
    logits = network(images)
    network.decode_head.conv_seg.bias.data -= logits.median()  # so that both labels occur
    logits = logits - logits.median()
    for logit, sample in zip(logits, network.predict(images), strict=True):
        torch.testing.assert_close(sample.seg_logits.data, logit.sigmoid())
        assert torch.equal(sample.pred_sem_seg.data, (sample.seg_logits.data > 0.5).float())
    assert {0, 1} == set(sample.pred_sem_seg.data.unique().tolist())


def test_threshold_of_one_and_more_logits():
    assert tiny_unet(threshold=0.3).decode_head.threshold == 0.3
    assert tiny_unet(num_classes=4, out_channels=4).decode_head.threshold is None


def test_more_classes():
    network = tiny_unet(num_classes=4, out_channels=None)
    images, labels = torch.randn(2, 3, 32, 32), torch.randint(4, (2, 32, 32))
    logits = network.eval()(images)
    assert logits.shape == (2, 4, 32, 32)
    torch.testing.assert_close(
        network.loss(images, samples(labels))['decode.loss_ce'],
        torch.nn.functional.cross_entropy(logits, labels),
    )


def test_auxiliary_head():
    network = tiny_unet(
        num_classes=3,
        out_channels=3,
        auxiliary_head=dict(
            type=FCNHead, in_channels=32, in_index=3, channels=4, num_convs=1, num_classes=3
        ),
    )
    losses = network.loss(torch.randn(2, 3, 32, 32), samples(torch.randint(3, (2, 32, 32))))
    assert {'decode.loss_ce', 'aux.loss_ce'} <= set(losses)
    losses['aux.loss_ce'].backward()
    assert network.backbone.layer3[0].conv1.weight.grad is not None
    assert network.backbone.layer4[0].conv1.weight.grad is None


def test_dropout_is_off_by_default():
    maps = [
        torch.randn(2, channels, 32 // 2**i, 32 // 2**i) for i, channels in enumerate(TINY_CHANNELS)
    ]
    plain = tiny_unet().decode_head
    assert torch.equal(plain(maps), plain(maps))
    dropping = tiny_unet(dropout_ratio=0.5).decode_head
    assert not torch.equal(dropping(maps), dropping(maps))
    assert torch.equal(dropping.eval()(maps), dropping(maps))


def test_fewer_maps_and_another_norm():
    head = UNetHead(
        in_channels=(4, 8, 16),
        widths=(12, 6, 5),
        num_classes=3,
        norm_cfg=dict(type='GN', num_groups=1),
    )
    maps = (torch.randn(1, 4, 16, 16), torch.randn(1, 8, 8, 8), torch.randn(1, 16, 4, 4))
    copies = [m.clone() for m in maps]
    assert head(maps).shape == (1, 3, 32, 32)
    assert all(torch.equal(a, b) for a, b in zip(maps, copies, strict=True))
    assert not [m for m in head.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.mark.parametrize('widths', [(256, 128, 64, 32), (8, 8, 8, 8, 8, 8), ()])
def test_other_number_of_widths_raises(widths):
    with pytest.raises(
        ValueError,
        match=re.escape(f'got 5 in_channels {TINY_CHANNELS} and {len(widths)} widths {widths}'),
    ):
        UNetHead(in_channels=TINY_CHANNELS, widths=widths, num_classes=2, out_channels=1)
