import pytest
import torch
import torch.nn.functional as F

from mmkdml.models.losses import ChannelWiseLoss, PixelWiseLoss, PredictionKLLoss
from mmkdml.registry import MODELS

LOSSES = [
    dict(type='PredictionKLLoss'),
    dict(type='PredictionKLLoss', direction='source||learner', scale='temperature_squared'),
    *(dict(type='PixelWiseLoss', reference=one) for one in ('cirkd', 'skd', 'ifvd')),
    dict(type='ChannelWiseLoss'),
    dict(type='ChannelWiseLoss', learner_channels=3, source_channels=5),
]


def sides(config, size):
    channels = config.get('source_channels', 3)
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, *size, generator=rng) for c in (3, channels)]


def padded(x, value):
    return F.pad(x, (0, 32, 0, 32), value=value)


@pytest.mark.parametrize('config', LOSSES, ids=str)
def test_padded_batch_with_ignore_index_equals_the_unpadded_one(config):
    # mmseg pads images with pad_val and masks with seg_pad_val, here from 32 to 64 pixels.
    loss = MODELS.build(dict(config, ignore_index=255))
    learner, source = sides(config, (32, 32))
    truth = torch.randint(3, (2, 32, 32), generator=torch.Generator().manual_seed(1))
    expected = loss(learner, source)
    found = loss(padded(learner, 2.0), padded(source, -1.0), padded(truth, 255))
    torch.testing.assert_close(found, expected)
    without = MODELS.build(config)
    without.load_state_dict(loss.state_dict())
    torch.testing.assert_close(without(learner, source), expected, rtol=0, atol=0)
    assert not torch.isclose(without(padded(learner, 2.0), padded(source, -1.0)), expected)


def test_padding_of_equal_probabilities_dilutes_the_mean_fourfold():
    learner, source = sides({}, (32, 32))
    plain = PredictionKLLoss()(learner, source)
    diluted = PredictionKLLoss()(padded(learner, 0.0), padded(source, 0.0))
    torch.testing.assert_close(diluted, plain / 4)


def test_labels_are_resized_to_the_logits():
    learner, source = sides({}, (4, 4))
    truth = torch.zeros(2, 32, 32, dtype=torch.long)
    truth[:, :, 16:] = 7
    expected = PixelWiseLoss()(learner[..., :2], source[..., :2])
    torch.testing.assert_close(PixelWiseLoss(ignore_index=7)(learner, source, truth), expected)


def test_ignored_samples_of_a_classification_do_not_count():
    rng = torch.Generator().manual_seed(0)
    learner, source = torch.randn(2, 4, 3, generator=rng)
    truth = torch.tensor([0, -1, 2, -1])
    found = PredictionKLLoss(ignore_index=-1)(learner, source, truth)
    torch.testing.assert_close(found, PredictionKLLoss()(learner[::2], source[::2]))


@pytest.mark.parametrize('kind', [PredictionKLLoss, PixelWiseLoss, ChannelWiseLoss])
def test_labels_are_only_needed_with_ignore_index(kind):
    assert not kind().needs_truth
    assert kind(ignore_index=0).needs_truth
