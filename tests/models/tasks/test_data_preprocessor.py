import pytest
import torch
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmkdml.models import KnowledgeDistiller, MultiChannelSegDataPreProcessor
from mmkdml.registry import MODELS


def batch(channels):
    torch.manual_seed(0)
    images = [torch.randint(256, (channels, 6, 8), dtype=torch.uint8) for _ in range(2)]
    samples = [
        SegDataSample(
            gt_sem_seg=PixelData(data=torch.ones(1, 6, 8, dtype=torch.long)),
            metainfo=dict(img_shape=(6, 8)),
        )
        for _ in range(2)
    ]
    return dict(inputs=images, data_samples=samples)


@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_each_channel_is_normalized_and_padded(channels):
    mean, std = [float(i) for i in range(channels)], [i + 1.0 for i in range(channels)]
    settings = dict(type='mmkdml.MultiChannelSegDataPreProcessor', mean=mean, std=std)
    preprocessor = MODELS.build(dict(settings, size=(8, 8), pad_val=7))
    data = batch(channels)
    inputs = preprocessor(data, training=True)['inputs']
    assert inputs.shape == (2, channels, 8, 8)
    for index in range(channels):
        expected = (data['inputs'][0][index].double() - index) / (index + 1)
        torch.testing.assert_close(inputs[0, index, :6].double(), expected, rtol=1e-6, atol=1e-6)
    assert (inputs[:, :, 6:] == 7).all()
    assert not preprocessor.state_dict()  # as in the frameworks


def test_three_channels_equal_mmsegs():
    settings = dict(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=True, size=(8, 8))
    ours, theirs = MultiChannelSegDataPreProcessor(**settings), SegDataPreProcessor(**settings)
    found, expected = (one(batch(3), training=True)['inputs'] for one in (ours, theirs))
    assert torch.equal(found, expected)
    plain = MultiChannelSegDataPreProcessor(size=(8, 8))(batch(4), training=True)['inputs']
    assert torch.equal(plain[..., :6, :], torch.stack(batch(4)['inputs']).float())


@pytest.mark.parametrize(('mean', 'std'), [([1.0], None), ([1.0, 2.0], [1.0]), ([1.0], [0.0])])
def test_invalid_mean_and_std_raise(mean, std):
    with pytest.raises(ValueError, match=r'mean and std: expected one value.*got mean=\[1.0'):
        MultiChannelSegDataPreProcessor(mean, std)


def test_error_of_mmsegs_names_this_one():
    settings = dict(type='mmseg.SegDataPreProcessor', mean=[0.0] * 4, std=[1.0] * 4)
    member = dict(
        type='mmseg.EncoderDecoder',
        backbone=dict(type='mmpretrain.ResNet', depth=18, base_channels=4, stem_channels=4),
        decode_head=dict(type='mmseg.FCNHead', in_channels=32, channels=4, num_classes=2),
    )
    for member_settings, own in (({}, settings), (dict(data_preprocessor=settings), None)):
        with pytest.raises(ValueError, match='4 values.*Use MultiChannelSegDataPreProcessor'):
            KnowledgeDistiller(dict(a=dict(member, **member_settings)), [], data_preprocessor=own)
