"""U-Nets of the paper (Table 7): one foreground class with one logit, ImageNet weights."""

from mmseg.models import EncoderDecoder, SegDataPreProcessor

from mmkdml.models import FocalDiceLoss, PretrainedTIMMBackbone, StemResNet, UNetHead

data_preprocessor = dict(
    type=SegDataPreProcessor,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    size_divisor=32,
    test_cfg=dict(size_divisor=32),
)

unet_resnet50 = dict(
    type=EncoderDecoder,
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type=StemResNet,
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    decode_head=dict(
        type=UNetHead,
        in_channels=[64, 256, 512, 1024, 2048],
        num_classes=2,
        out_channels=1,
        loss_decode=dict(type=FocalDiceLoss),
    ),
    test_cfg=dict(mode='whole'),
)
unet_resnet18 = dict(
    unet_resnet50,
    backbone=dict(
        type=StemResNet,
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    decode_head=dict(unet_resnet50['decode_head'], in_channels=[64, 64, 128, 256, 512]),
)
unet_mobilenet = dict(
    unet_resnet50,
    backbone=dict(
        type=PretrainedTIMMBackbone,
        model_name='mobilenetv1_100',
        pretrained=True,
        features_only=True,
        out_indices=(0, 1, 2, 3, 4),
    ),
    decode_head=dict(unet_resnet50['decode_head'], in_channels=[64, 128, 256, 512, 1024]),
)
