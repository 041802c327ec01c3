import copy

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from torch.utils.data import Dataset

from mmkdml.apis import newest_checkpoint
from mmkdml.engine import ExactResumeHook, ResumableTrainLoop, SafeCheckpointHook
from mmkdml.models import KnowledgeDistiller, TeacherCache, Transfer
from mmkdml.models.distillers import teacher_cache
from mmkdml.registry import MODELS

BOTH = [('predictions', 1.0), ('features', 1.0)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'cache.sqlite'


def seen_by(member):
    """Record the images that a member runs on from now on."""
    seen = []
    member.backbone.register_forward_pre_hook(lambda _, images: seen.extend(images[0].clone()))
    return seen


def with_cache(distiller, path, limit=1, dtype=None):
    twin = copy.deepcopy(distiller)
    twin.teacher_cache = TeacherCache(path, limit, dtype)
    return twin


def losses_of(distiller, inputs, samples):
    torch.manual_seed(5)
    losses = distiller.parse_losses(distiller(inputs, samples, mode='loss'))[1]
    return {key: value.detach() for key, value in losses.items() if 'loss' in key}


def close(found, expected, gap=1e-6):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert (found[key] - value).abs() <= gap * value.abs(), key


def test_cached_outputs_give_equal_losses_and_gradients(task, tiny, path):
    plain = tiny.pair(task, BOTH, frozen=dict(teacher=None))
    cached = with_cache(plain, path)
    inputs, samples = task.batch(6)
    order = [4, 1, 5, 0, 2, 3]
    for part in (order[:1], order[1:3], order[3:]):  # other batches than later
        cached.forward_frozen('teacher', inputs[part])
    gradients = []
    for distiller in (plain, cached):
        seen = seen_by(distiller.named_members()['teacher'])
        tiny.optimized(distiller(inputs, samples, mode='loss')).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in distiller.members.parameters()]))
    assert len(seen) == 1  # computed again for comparison
    assert torch.allclose(*gradients, rtol=1e-5, atol=1e-6 * gradients[0].abs().max().item())
    close(losses_of(cached, inputs, samples), losses_of(plain, inputs, samples))


def test_first_epoch_equals_training_without_cache(task, tiny, path):
    plain = tiny.pair(task, BOTH, frozen=dict(teacher=None))
    cached = with_cache(plain, path)
    close(losses_of(cached, *task.batch()), losses_of(plain, *task.batch()), gap=0)


def test_teacher_runs_only_on_images_that_are_not_cached(task, tiny, path):
    distiller = with_cache(tiny.pair(task, BOTH, frozen=dict(teacher=None)), path)
    seen = seen_by(distiller.named_members()['teacher'])
    inputs, samples = task.batch(5)
    shares = []
    for part in ([0, 1], [2, 1, 0, 3], [0, 1, 2, 3], [4, 0, 4]):
        measures = distiller(inputs[part], [samples[i] for i in part], mode='loss')
        shares.append(measures['teacher.cached'].item())
        size = measures['teacher.cache_gib'].item()
        assert size == pytest.approx(path.stat().st_size / 2**30)
    assert shares == [0, 0.5, 1, pytest.approx(1 / 3)]
    # Image 1 is computed again to verify the first entry that is read.
    expected = inputs[[0, 1, 1, 2, 3, 4, 4]]
    assert torch.equal(torch.stack(seen), expected)


# SimKD and SRRL use the teacher's classifier, IFVD labels, SemCKD lists of taps, and the last one a
# discriminator.
@pytest.mark.parametrize(
    'method',
    [
        'simkd_classification',
        'srrl_classification',
        'semckd_classification',
        'ifvd_segmentation',
        'skd_adversarial_segmentation',
    ],
)
def test_methods_train_with_a_cache(tiny, path, method):
    plain = tiny.compared(method)
    cached = with_cache(plain, path)
    inputs, samples = tiny.compared_batch(method, number=4)
    for part in (inputs[:3], inputs[3:]):
        cached.forward_frozen('teacher', part)
    close(losses_of(cached, inputs, samples), losses_of(plain, inputs, samples))
    assert cached(inputs, samples, mode='loss')['teacher.cached'] == 1


def pair_of(tiny, teacher, kinds, path, tap=None, dtype=None):
    return KnowledgeDistiller(
        members=dict(teacher=copy.deepcopy(teacher), student=tiny.classifier()),
        transfers=[
            Transfer('teacher', 'student', kind, 1.0)
            if kind == 'predictions'
            else Transfer('teacher', 'student', kind, 1.0, source_tap=tap, learner_tap=tap)
            for kind in kinds
        ],
        frozen=dict(teacher=None),
        input_size=tiny.size,
        teacher_cache=dict(path=path, limit=1, dtype=dtype),
    )


def share(distiller, inputs):
    return distiller.forward_frozen('teacher', inputs)[1]['teacher.cached'].item()


def test_styles_share_entries(tiny, path):
    teacher = MODELS.build(tiny.classifier())
    inputs = tiny.images()
    assert share(pair_of(tiny, teacher, ['predictions'], path), inputs) == 0
    assert share(pair_of(tiny, teacher, ['features'], path), inputs) == 0
    assert share(pair_of(tiny, teacher, ['features', 'predictions'], path), inputs) == 1


CHANGES = dict(
    nothing=lambda teacher: None,
    weight=lambda teacher: teacher.head.fc.bias.data[0].add_(1e-6),
    buffer=lambda teacher: teacher.backbone.bn1.running_mean[0].add_(1e-6),
    layer=lambda teacher: setattr(teacher.backbone.bn1, 'eps', 1e-4),
)


@pytest.mark.parametrize('change', CHANGES)
def test_changed_teacher_is_not_cached(tiny, path, change):
    teacher = MODELS.build(tiny.classifier())
    teacher.head.fc.bias.data.zero_()
    share(pair_of(tiny, teacher, ['predictions'], path), tiny.images())
    CHANGES[change](teacher)
    later = pair_of(tiny, teacher, ['predictions'], path)
    assert share(later, tiny.images()) == (change == 'nothing')


def test_other_tap_image_size_or_precision_is_not_cached(tiny, path):
    teacher = MODELS.build(tiny.classifier())
    inputs = torch.zeros(2, 3, 32, 32)
    first = pair_of(tiny, teacher, ['features'], path, tap='backbone.layer4')
    assert share(first, inputs) == 0
    assert share(first, inputs.to(memory_format=torch.channels_last)) == 1
    assert share(first, torch.zeros(2, 3, 64, 16)) == 0  # the same bytes
    assert share(first, inputs + 1e-7) == 0
    with torch.autocast('cpu', torch.bfloat16):
        assert share(first, inputs) == 0
        assert share(first, inputs) == 1
        assert first.forward_frozen('teacher', inputs)[0].taps['backbone.layer4'].dtype == (
            torch.bfloat16
        )
    assert share(first.double(), inputs.double()) == 0
    for changes in (dict(tap='backbone.layer3'), dict(tap='backbone.layer4', dtype='float16')):
        assert share(pair_of(tiny, teacher, ['features'], path, **changes), inputs) == 0


@pytest.mark.parametrize(('dtype', 'parts'), [('float16', 2048), ('bfloat16', 256)])
def test_half_precision_halves_size_and_rounds_as_documented(tiny, path, dtype, parts):
    teacher = MODELS.build(tiny.classifier())
    exact = pair_of(tiny, teacher, ['features', 'predictions'], path.with_name('exact'))
    half = pair_of(tiny, teacher, ['features', 'predictions'], path, dtype=dtype)
    inputs = tiny.images()
    expected_outputs, kept, found = (
        x.forward_frozen('teacher', inputs)[0] for x in (exact, half, half)
    )
    for at in (None, 'backbone'):
        exact_values, rounded = expected_outputs.select(at), kept.select(at)
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, exact_values.to(getattr(torch, dtype)).float())
        assert torch.all((rounded - exact_values).abs() <= exact_values.abs() / parts + 1e-7)
        # Computed and cached outputs are equal, so a resumed run is exact.
        assert torch.equal(rounded, found.select(at))
    pairs = [x.teacher_cache.bytes_per_image['teacher'] for x in (exact, half)]
    assert pairs == [4 * (3 + 32), 2 * (3 + 32)]  # 3 logits, a map of 32x1x1


def test_size_is_logged_once(tiny, path, monkeypatch):
    logged = []
    monkeypatch.setattr(teacher_cache, 'print_log', lambda text, **_: logged.append(text))
    distiller = pair_of(tiny, MODELS.build(tiny.classifier()), ['features', 'predictions'], path)
    for _ in range(2):
        distiller.forward_frozen('teacher', tiny.images())
    (text,) = logged
    used = 2**-30 * path.stat().st_size
    room = int((1 - used) * 2**30 / 140)
    for fact in (str(path), '0.14 KiB per image of teacher', f'{used:.3g} of 1 GiB', f' {room} '):
        assert fact in text


def test_full_cache_computes_outputs(task, tiny, path):
    plain = tiny.pair(task, BOTH, frozen=dict(teacher=None))
    cached = with_cache(plain, path, limit=50 / 2**20)
    inputs, samples = task.batch(6)
    parts = [(inputs[part], samples[part]) for part in (slice(0, 2), slice(2, 6))] * 2
    expected = [losses_of(plain, *part) for part in parts]  # with the same teacher
    seen = seen_by(cached.named_members()['teacher'])
    for part, losses in zip(parts, expected, strict=True):
        close(losses_of(cached, *part), losses)
    full = task.name != 'classification'  # maps of 4 images need more than the 3 pages left
    assert cached.teacher_cache.store.full == full
    assert len(seen) == (6 + 1 + 4 if full else 6 + 1)


def test_entries_that_differ_from_the_teacher_raise(tiny, path):
    teacher = MODELS.build(tiny.classifier())
    share(pair_of(tiny, teacher, ['features'], path), tiny.images())
    later = pair_of(tiny, teacher, ['features'], path)
    layer = later.named_members()['teacher'].backbone.layer4
    layer.register_forward_hook(lambda _, __, output: 1.01 * output)
    with pytest.raises(ValueError, match=r'cache.sqlite is invalid: .* frozen teacher'):
        later.forward_frozen('teacher', tiny.images())


def test_teacher_without_transfers_does_not_run(tiny, path):
    distiller = pair_of(tiny, MODELS.build(tiny.classifier()), [], path)
    seen = seen_by(distiller.named_members()['teacher'])
    assert distiller(tiny.images(), tiny.class_samples(), mode='loss')['teacher.cached'] == 1
    assert seen == []


def test_copies_share_the_cache_and_the_file_is_created_on_use(tiny, path):
    distiller = pair_of(tiny, MODELS.build(tiny.classifier()), ['features'], path)
    assert copy.deepcopy(distiller).teacher_cache is distiller.teacher_cache
    assert not path.exists()
    assert not any('cache' in key for key in distiller.state_dict())


@pytest.mark.parametrize(
    ('cache', 'message'),
    [
        (dict(limit=0), 'limit must be above 0 GiB and finite, got 0'),
        (dict(limit=float('inf')), 'limit must be above 0 GiB and finite, got inf'),
        (dict(limit=float('nan')), 'limit must be above 0 GiB and finite, got nan'),
        (dict(limit=1, dtype='int8'), "must be one of float16, bfloat16, or None .* got 'int8'"),
    ],
    ids=str,
)
def test_invalid_arguments_raise(cache, message):
    with pytest.raises(ValueError, match=message):
        TeacherCache('x', **cache)


def test_cache_without_frozen_member_raises(task, tiny, path):
    with pytest.raises(ValueError, match=r'all members learn.*mode kd_off'):
        tiny.pair(task, BOTH, teacher_cache=dict(path=path, limit=1))


class Noisy(Dataset):
    """Images with integer noise that differ in each epoch."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        noise = torch.randint(9, (3, 32, 32))
        return dict(inputs=50.0 * index + noise, data_samples=DataSample().set_gt_label(index % 3))


class CrashError(Exception):
    pass


class CrashAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == self.iteration:
            raise CrashError


def train(distiller, folder, name, crash=None, newest=None):
    DefaultScope._instance_dict.clear()
    runner = Runner(
        model=copy.deepcopy(distiller),
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=Noisy(),
            sampler=dict(type='DefaultSampler', shuffle=True),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(type=ResumableTrainLoop, max_epochs=5, augmentations_per_image=2),
        # Unlike Adam, SGD does not amplify rounding errors of small gradients.
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=1e-3)),
        default_hooks=dict(checkpoint=dict(type=SafeCheckpointHook, interval=1)),
        custom_hooks=[dict(type=ExactResumeHook), *([CrashAt(crash)] if crash else [])],
        randomness=dict(seed=3),
        default_scope='mmengine',
        experiment_name=name,
        load_from=newest and str(newest),
        resume=newest is not None,
        log_level='ERROR',
    )
    seen = seen_by(runner.model.named_members()['teacher'])
    runner.train()
    return runner.model.state_dict(), seen


def test_training_equals_one_without_cache_and_resumes_exactly(tiny, tmp_path):
    plain = pair_of(tiny, MODELS.build(tiny.classifier()), ['predictions', 'features'], 'unused')
    plain.teacher_cache = None
    expected, images = train(plain, tmp_path / 'plain', 'plain')
    assert len(images) == 5 * 6
    cached = with_cache(plain, tmp_path / 'a.sqlite')
    found, images = train(cached, tmp_path / 'cached', 'cached')
    assert len(images) == 2 * 6 + 1  # 2 augmentations of 6 images, and one comparison
    assert all(torch.allclose(found[key], expected[key], atol=1e-5) for key in expected)
    # Stopped in the second epoch, with 4 of its 6 images in the cache.
    other = with_cache(plain, tmp_path / 'b.sqlite')
    with pytest.raises(CrashError):
        train(other, tmp_path / 'stopped', 'stopped', crash=5)
    newest = newest_checkpoint(tmp_path / 'stopped')
    assert newest.name == 'epoch_1.pth'
    resumed, images = train(other, tmp_path / 'stopped', 'resumed', newest=newest)
    assert len(images) == 2 + 1
    assert all(torch.equal(resumed[key], found[key]) for key in found)
