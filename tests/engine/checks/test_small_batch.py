import random
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler, InfiniteSampler, pseudo_collate
from mmengine.model import BaseModel
from mmpretrain.structures import DataSample
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, Dataset

from mmkdml.engine.checks.small_batch import SmallBatchHook, smallest_batch
from mmkdml.registry import MODELS

LAST = r'The last batch of an epoch \(5 images per process, batch_size 2\) has one image'


class Images(Dataset):
    def __init__(self, count, size=32):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        image = torch.rand(3, self.size, self.size) + random.random() + np.random.rand()
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 2))


def loader(count=5, batch_size=2, size=32, **settings):
    data = Images(count, size)
    settings = dict(sampler=DefaultSampler(data), collate_fn=pseudo_collate) | settings
    return DataLoader(data, batch_size=batch_size, **settings)


class Net(BaseModel):
    """Pooling to 1x1 before or after a normalization."""

    def __init__(self, norm=nn.BatchNorm2d, pooled=True, least=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        pool = nn.AdaptiveAvgPool2d(1)
        norm = nn.Sequential(norm(4), nn.Dropout())
        self.layers = nn.Sequential(*(pool, norm) if pooled else (norm, pool))
        self.least, self.batches = least, []

    def forward(self, inputs, data_samples, mode='tensor'):
        assert (mode, self.training) == ('loss', True)
        self.batches.append(len(inputs))
        if len(inputs) < self.least:
            raise ValueError(f'at least {self.least} images are compared')
        return dict(loss=self.layers(self.conv(torch.stack(list(inputs)))).mean())


def check(model, data=None):
    runner = SimpleNamespace(model=model, train_dataloader=loader() if data is None else data)
    SmallBatchHook().before_train(runner)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_batch_norm_of_one_value_raises(tmp_path):
    with pytest.raises(
        ValueError, match=rf'{LAST}.*BatchNorm2d layers.1.0 gets \(1, 4, 1, 1\).*drop'
    ):
        check(Net())
    with pytest.raises(ValueError, match='Every batch has one image.*batch_size of at least 2'):
        check(Net(), loader(batch_size=1))


def test_pytorch_raises_at_the_same_batch():
    batches = list(loader())
    net = Net()
    net(**net.data_preprocessor(batches[0]), mode='loss')
    with pytest.raises(ValueError, match='Expected more than 1 value per channel'):
        net(**net.data_preprocessor(batches[-1]), mode='loss')


@pytest.mark.parametrize(
    'model', [Net(pooled=False), Net(nn.Identity), Net(nn.InstanceNorm2d, pooled=False)]
)
def test_models_trainable_on_one_image_pass(model):
    check(model)
    assert model.batches == [1]


def test_frozen_batch_norm_of_one_value_passes():
    class Frozen(Net):
        def train(self, mode=True):
            super().train(mode)
            self.layers[1][0].eval()
            return self

    check(Frozen())


@pytest.mark.parametrize(
    'data',
    [
        loader(4),
        loader(6, 3),
        loader(drop_last=True),
        loader(sampler=InfiniteSampler(Images(5))),
        DataLoader(Images(5), batch_sampler=BatchSampler(range(5), 2, drop_last=True)),
    ],
)
def test_model_is_not_run_without_a_batch_of_one_image(data):
    model = Net()
    check(model, data)
    assert model.batches == []


@pytest.mark.parametrize(
    ('data', 'smallest'),
    [
        (loader(5, 2), 1),
        (loader(5, 3), 2),
        (loader(6, 3), 3),
        (loader(5, 8), 5),
        (loader(1, 8), 1),
        (loader(5, 2, drop_last=True), 2),
        (loader(5, 2, sampler=InfiniteSampler(Images(5))), 2),
        (loader(5, 1, sampler=InfiniteSampler(Images(5))), 1),
        (DataLoader(Images(5), batch_sampler=BatchSampler(range(5), 2, drop_last=False)), 1),
        (DataLoader(Images(5), batch_sampler=[[0, 1], [2]]), 0),
        (DataLoader(Images(5), batch_size=None), 0),
    ],
)
def test_smallest_batch(data, smallest):
    assert smallest_batch(data) == smallest


@pytest.mark.parametrize(('rank', 'count', 'smallest'), [(0, 5, 1), (1, 5, 1), (0, 8, 2)])
def test_smallest_batch_with_several_processes(monkeypatch, rank, count, smallest):
    monkeypatch.setattr('mmengine.dataset.sampler.get_dist_info', lambda: (rank, 2))
    assert smallest_batch(loader(count, 2)) == smallest  # Of 5 images, one is repeated.


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (loader(5, 8, drop_last=True), '5 images per process, batch_size 8, drop_last True'),
        (loader(0, 8), '0 images per process, batch_size 8, drop_last False'),
    ],
)
def test_epoch_without_batches_raises(data, message):
    with pytest.raises(ValueError, match=f'An epoch has no batch: {message}'):
        check(Net(), data)


def test_teacher_cache_is_disabled_during_the_check():
    class Cached(Net):
        def forward(self, *args, **kwargs):
            assert self.teacher_cache is None
            return super().forward(*args, **kwargs)

    model = Cached(pooled=False)
    model.teacher_cache = cache = object()
    check(model)
    assert model.batches == [1]
    assert model.teacher_cache is cache


def test_loss_that_compares_images_raises():
    with pytest.raises(ValueError, match=f'{LAST}.*at least 2 images are compared.*drop_last'):
        check(Net(nn.Identity, least=2))


def test_error_unrelated_to_batch_size_is_ignored():
    model = Net(nn.Identity, least=3)
    check(model)
    assert model.batches == [1, 2]


@pytest.mark.parametrize('model', [Net(), Net(pooled=False), Net(least=2), Net(least=3)])
def test_weights_modes_and_random_states_are_restored(model):
    model.eval()
    model.layers[0].train()
    modes = [module.training for module in model.modules()]
    before, data = state(model), loader()  # Its sampler draws a seed.
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    expected = torch.rand(()), random.random(), np.random.rand()
    torch.manual_seed(1), random.seed(1), np.random.seed(1)
    with suppress(ValueError):
        check(model, data)
    assert model.batches
    assert (torch.rand(()), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_pre_hooks for module in model.modules())
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)


def test_training_is_bitwise_identical_with_the_check(training, undisturbed, tmp_path):
    _, expected = undisturbed(epochs=1)
    training.start(tmp_path, hooks=(dict(type=SmallBatchHook),), epochs=1)
    assert training.checkpoints(tmp_path) == expected


def classifier(width):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=width),
        neck=dict(type='mmpretrain.GlobalAveragePooling'),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=8 * width),
    )


@pytest.mark.parametrize(
    ('size', 'loss', 'message'),
    [
        (32, 'FeatureMSELoss', r'members.*layer4.*\(1, 64, 1, 1\)'),
        (64, 'FeatureMSELoss', None),
        (64, 'SimilarityPreservingLoss', '2 or more images.*got 1 and 1'),
    ],
)
def test_classrooms(size, loss, message):
    model = MODELS.build(
        dict(
            type='mmkdml.KnowledgeDistiller',
            members=dict(teacher=classifier(8), student=classifier(8)),
            transfers=[
                dict(
                    source='teacher', learner='student', knowledge='features', weight=1.0,
                    loss=dict(type=f'mmkdml.{loss}'),
                )
            ],
            input_size=(size, size),
        )
    )  # fmt: skip
    before = state(model)
    if message is None:
        check(model, loader(size=size))
    else:
        with pytest.raises(ValueError, match=f'{LAST}.*{message}'):
            check(model, loader(size=size))
    torch.testing.assert_close(state(model), before, rtol=0, atol=0)
