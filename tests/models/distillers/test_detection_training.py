"""Training runs of classrooms of detectors: exact resume, and two processes."""

import copy

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook, Hook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn
from torch.utils.data import Dataset

pytest.importorskip('mmdet')
from mmdet.models import BatchSyncRandomResize, DetDataPreprocessor
from mmdet.structures import DetDataSample

from mmkdml.apis import newest_checkpoint
from mmkdml.engine import ExactResumeHook, ResumableTrainLoop, SafeCheckpointHook
from mmkdml.models import DiversifiedKDMLDistiller, KnowledgeDistiller, TeacherCache, Transfer
from mmkdml.models.checkpoints import load_checkpoint_file

SIZES = [(64, 48), (40, 64), (64, 64), (33, 47), (64, 50), (48, 64)]


class Cells(Dataset):
    """Images of different sizes with noise that differs in each epoch; one has no box."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        size = SIZES[index]
        sample = DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        )
        first = torch.tensor([[4.0, 6.0], [12.0, 2.0], [3.0, 11.0]])[: index % 4]
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([first, first + 9 + index], 1), labels=torch.arange(3)[: index % 4]
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
        return dict(inputs=20.0 * index + torch.randint(99, (3, *size)), data_samples=sample)


class CrashError(Exception):
    pass


class CrashAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.iteration:
            raise CrashError


def train(model, folder, name, crash=None, newest=None, augmentations=None):
    runner = Runner(
        model=copy.deepcopy(model),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=Cells(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(
            type=ResumableTrainLoop, max_epochs=3, augmentations_per_image=augmentations
        ),
        optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type=SafeCheckpointHook, interval=1)),
        custom_hooks=[
            dict(type=ExactResumeHook),
            dict(type=EMAHook),
            *([CrashAt(crash)] if crash else []),
        ],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=name,
        load_from=newest and str(newest),
        resume=newest is not None,
        log_level='ERROR',
    )
    runner.train()
    return load_checkpoint_file(folder / 'epoch_3.pth')


def classroom(detector, augments=None, **settings):
    members = dict(teacher=detector(seed=1), student=detector())
    members['student'].data_preprocessor = DetDataPreprocessor(batch_augments=augments)
    members['teacher'].data_preprocessor = DetDataPreprocessor()
    return KnowledgeDistiller(
        members,
        [Transfer('teacher', 'student', kind, 0.5) for kind in ('predictions', 'features')],
        frozen=dict(teacher=None),
        input_size=(64, 64),
        **settings,
    )


@pytest.mark.parametrize('resized', [False, True])
def test_resumed_run_equals_an_uninterrupted_one(detector, tmp_path, resized):
    resize = dict(type=BatchSyncRandomResize, random_size_range=(96, 128), interval=2)
    model = classroom(detector, [resize] if resized else None)
    expected = train(model, tmp_path / 'plain', 'plain')
    with pytest.raises(CrashError):
        train(model, tmp_path / 'stopped', 'stopped', crash=5)
    newest = newest_checkpoint(tmp_path / 'stopped')
    assert newest.name == 'epoch_1.pth'
    found = train(model, tmp_path / 'stopped', 'resumed', newest=newest)
    before = model.state_dict()
    for key in ('state_dict', 'ema_state_dict'):
        assert found[key].keys() == expected[key].keys()
        for name, value in expected[key].items():
            assert torch.equal(found[key][name], value), name
    assert any(not torch.equal(before[name], value) for name, value in found['state_dict'].items())


def test_teacher_cache_is_used_for_images_in_batches_of_the_same_size(detector, tmp_path):
    """Its key has the padded size, on which the padding and the outputs depend."""
    model = classroom(detector)
    expected = train(model, tmp_path / 'plain', 'plain', augmentations=1)
    cached = copy.deepcopy(model)
    cached.teacher_cache = TeacherCache(tmp_path / 'cache.sqlite', 1)
    seen = []
    teacher = cached.named_members()['teacher']
    teacher.backbone.register_forward_hook(lambda _, images, __: seen.extend(images[0]))
    found = train(cached, tmp_path / 'cached', 'cached', augmentations=1)
    assert len({tuple(image.shape[1:]) for image in seen}) > 1
    for name, value in expected['state_dict'].items():
        torch.testing.assert_close(found['state_dict'][name], value, rtol=1e-4, atol=1e-5)
    assert 6 < len(seen) <= 18


def variant(detector, style):
    """Build KD+ML with batch norm in eval mode, whose statistics are of the batch."""
    model = DiversifiedKDMLDistiller(
        mode='kdml',
        style=style,
        teacher=detector(seed=1),
        students=[detector(seed=2), detector(seed=3)],
        weights=dict(alpha=(0.3, 0.7), beta=(0.2, 0.4), gamma=(0.5, 0.1)),
        input_size=(64, 64),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model


def batch(part=slice(None)):
    """Four images whose halves have different numbers of boxes."""
    data = [Cells()[index] for index in (2, 1, 3, 2)]
    samples = [one['data_samples'] for one in data]
    for sample in samples:
        sample.set_metainfo(
            dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape'), (64, 64))
        )
    images = torch.randn(4, 3, 64, 64, generator=torch.manual_seed(0))
    return images[part], samples[part]


def gradients(model, network, data):
    """Return the gradients of two steps; the second raises if a parameter is unused."""
    for _ in range(2):
        network.zero_grad()
        network.parse_losses(model(*data, mode='loss'))[0].backward()
    return torch.cat([parameter.grad.flatten() for parameter in network.parameters()])


def in_two_processes(rank, folder, detector):
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    half = slice(2 * rank, 2 * rank + 2)
    found = {}
    for style in ('v1', 'v2', 'v3'):
        network = variant(detector, style)
        parallel = MMDistributedDataParallel(network, device_ids=None)
        found[style] = gradients(parallel, network, batch(half))
    if rank == 0:
        torch.save(found, folder / 'found.pth')


@pytest.mark.slow
def test_two_processes(detector, all_forked, tmp_path):
    """Averaged gradients equal those of the joint batch, as far as losses do.

    mmdet divides its losses by the positives of all processes. A transfer of predictions divides by
    the confidence of its own images, so its gradient is the mean over the processes.
    """
    expected = {}
    halves = [slice(2), slice(2, 4)]
    for style in ('v1', 'v2', 'v3'):
        network = variant(detector, style)
        losses = network(*batch(), mode='loss')
        log = network.parse_losses(losses)[1]
        transfers = {key for key in log if 'loss_from' in key and key.endswith('predictions')}
        joint = sum(
            value
            for key, value in log.items()
            if 'loss' in key and '.' in key and key not in transfers
        )
        parts = [network.parse_losses(network(*batch(half), mode='loss'))[1] for half in halves]
        mean = sum(part[key] for part in parts for key in transfers) / 2
        (joint + mean).backward()
        expected[style] = torch.cat([p.grad.flatten() for p in network.parameters()])
    all_forked(*[(in_two_processes, rank, tmp_path, detector) for rank in range(2)])
    found = torch.load(tmp_path / 'found.pth')
    for style, value in expected.items():
        assert value.abs().max() > 1e-3
        torch.testing.assert_close(
            found[style], value, rtol=1e-4, atol=1e-4 * value.abs().max().item()
        )
