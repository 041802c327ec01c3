"""Classrooms of detectors: batches, unlike members, and what only detectors have."""

import copy
from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData

pytest.importorskip('mmdet')
from mmdet.models import BatchFixedSizePad, BatchSyncRandomResize, DetDataPreprocessor
from mmdet.structures import DetDataSample

from mmkdml.engine import ChannelsLastHook, CPUAmpOptimWrapper, compile_members
from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.box_ensembles import BOX_ENSEMBLES

DENSE = ['atss', 'retinanet', 'fcos', 'gfl', 'rtmdet', 'yolox']
IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
PLAIN = dict(mean=[0.0, 10.0, 20.0], std=[255.0, 200.0, 100.0])
SIZES = [(96, 70), (60, 96), (33, 47)]


@pytest.fixture(autouse=True)
def iteration():
    """Batch augmentations of mmdet read it."""
    MessageHub.get_current_instance().update_info('iter', 0)


def pair(teacher, student, *knowledge, **settings):
    settings = dict(dict(input_size=(64, 64)), **settings)
    taps, weight = settings.pop('taps', {}), settings.pop('weight', 1.0)
    return KnowledgeDistiller(
        members=dict(teacher=teacher, student=student),
        transfers=[
            Transfer('teacher', 'student', kind, weight, **(taps if kind == 'features' else {}))
            for kind in knowledge
        ],
        **settings,
    )


def loaded(sizes=SIZES, boxes=(2, 0, 3), seed=0):
    """Batch of a data loader: images of 8 bits and their boxes."""
    rng = torch.Generator().manual_seed(seed)
    batch = dict(inputs=[], data_samples=[])
    for size, number in zip(sizes, boxes, strict=True):
        sample = DetDataSample(
            metainfo=dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        )
        first = torch.rand(number, 2, generator=rng) * 16
        sides = 6 + torch.rand(number, 2, generator=rng) * 16
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([first, first + sides], 1),
            labels=torch.randint(3, (number,), generator=rng),
        )
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0))
        image = torch.randint(256, (3, *size), dtype=torch.uint8, generator=rng)
        batch['inputs'].append(image)
        batch['data_samples'].append(sample)
    return batch


def gradients(model):
    return {
        key: None if value.grad is None else value.grad.clone()
        for key, value in model.named_parameters()
    }


@pytest.mark.parametrize('name', ['gfl', 'retinanet', 'fcos', 'rtmdet', 'yolox'])
def test_training_without_transfers_equals_that_of_mmdet(detector, tiny, name):
    plain = detector(name)
    members = detector(name, seed=1), copy.deepcopy(plain)
    classroom = pair(*members, 'predictions', weight=0.0, frozen=dict(teacher=None))
    batches = [DetDataPreprocessor(pad_size_divisor=32, **IMAGENET)(loaded(seed=n)) for n in (1, 2)]
    batches = [(batch['inputs'], batch['data_samples']) for batch in batches]
    found = tiny.train(classroom, copy.deepcopy(batches))
    expected = tiny.train(plain, batches)
    for key, value in expected.items():
        assert torch.equal(found[f'members.student.{key}'], value), key


@pytest.mark.parametrize('name', DENSE)
@pytest.mark.parametrize('boxes', [(2, 0, 3), (0, 0, 0)], ids=['some boxes', 'no boxes'])
@pytest.mark.parametrize('wrapper', [OptimWrapper, CPUAmpOptimWrapper])
def test_padded_batches_train_all_parameters(detector, name, boxes, wrapper):
    """As mmdet does; DistributedDataParallel needs gradients of all parameters."""
    classroom = pair(
        detector(name, seed=1), detector(name), 'predictions', 'features', frozen=dict(teacher=None)
    ).train()
    teacher = copy.deepcopy(classroom.named_members()['teacher'].state_dict())
    plain = copy.deepcopy(classroom.members['student'])
    optimizer = wrapper(torch.optim.SGD(classroom.parameters(), lr=0.01))
    data = classroom.data_preprocessor(loaded(boxes=boxes), True)
    assert len({tuple(sample.img_shape) for sample in data['data_samples']}) == 3
    with optimizer.optim_context(classroom):
        losses = classroom(**data, mode='loss')
        own = plain(data['inputs'], data['data_samples'], mode='loss')
    for key, value in own.items():
        torch.testing.assert_close(losses[f'student.{key}'], value, rtol=0, atol=0)
    for key in ('predictions', 'features'):
        assert losses[f'student.loss_from_teacher.{key}'].dtype == torch.float32
    total, _ = classroom.parse_losses(losses)
    total.backward()
    plain.parse_losses(own)[0].backward()
    found = gradients(classroom.members['student'])
    unused = {key for key, value in gradients(plain).items() if value is None}
    assert {key for key, value in found.items() if value is None} <= unused
    assert [
        key for key, value in found.items() if value is not None and not value.isfinite().all()
    ] == []
    for key, value in classroom.named_members()['teacher'].state_dict().items():
        assert torch.equal(value, teacher[key])


def test_gradients_are_accumulated(detector):
    """Their mean is applied, each with the normalization of its own batch."""
    classroom = pair(detector(seed=1), detector(), 'predictions', frozen=dict(teacher=None)).train()
    twin = copy.deepcopy(classroom)
    batches = [classroom.data_preprocessor(loaded(seed=n), True) for n in range(2)]
    wrapper = OptimWrapper(torch.optim.SGD(classroom.parameters(), lr=0.1), accumulative_counts=2)
    wrapper.initialize_count_status(classroom, 0, 2)
    for batch in batches:
        losses = classroom(**batch, mode='loss')
        wrapper.update_params(classroom.parse_losses(losses)[0])
    totals = [twin.parse_losses(twin(**batch, mode='loss'))[0] for batch in batches]
    (sum(totals) / 2).backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(classroom.state_dict()[key], value, rtol=0, atol=1e-6)


def test_features_are_shared_by_unlike_detectors(detector):
    teacher = detector('retinanet', seed=1)
    classroom = pair(teacher, detector(), 'features')
    losses = classroom(**classroom.data_preprocessor(loaded(), True), mode='loss')
    assert losses['student.loss_from_teacher.features'] > 0
    with pytest.raises(ValueError, match=r"student.*Unlike heads.*knowledge='features'"):
        pair(teacher, detector(), 'predictions')


def test_features_of_other_detectors_are_shared(other_detector, detector):
    two_stage = hasattr(other_detector, 'roi_head')
    other_detector.data_preprocessor = detector().data_preprocessor
    taps = dict(
        learner_tap='neck.fpn_convs.0' if two_stage else 'neck.fpn_convs.2',
        projector=dict(type='ConvProjector'),
    )
    if two_stage:  # whose finest level is finer than that of an ATSS
        taps['source_tap'] = 'neck.fpn_convs.1'
    for frozen in (None, dict(teacher=None)):
        classroom = pair(other_detector, detector(), 'features', taps=taps, frozen=frozen)
        losses = classroom.train()(**classroom.data_preprocessor(loaded(), True), mode='loss')
        assert losses['student.loss_from_teacher.features'] > 0
        assert ('teacher.loss_bbox' in losses) == (frozen is None)
    with pytest.raises(ValueError, match='teacher.*Transfer features'):
        pair(other_detector, detector(), 'predictions')


@pytest.mark.parametrize('name', sorted(BOX_ENSEMBLES))
def test_ensemble_of_four_students(detector, name):
    students = {f'student_{n}': detector(seed=n) for n in range(1, 5)}
    classroom = KnowledgeDistiller(
        members=students,
        transfers=[
            Transfer(a, b, 'predictions', 0.1) for a in students for b in students if a != b
        ],
        ensemble=name,
        input_size=(64, 64),
    ).eval()
    samples = classroom.test_step(loaded())
    alone = {key: one.test_step(loaded()) for key, one in students.items()}
    for index, sample in enumerate(samples):
        found = [alone[key][index].pred_instances for key in students]
        for key, expected in zip(students, found, strict=True):
            own = getattr(sample.members, key).pred_instances
            assert torch.equal(own.bboxes, expected.bboxes)
        expected = BOX_ENSEMBLES[name](
            *([one[kind] for one in found] for kind in ('bboxes', 'scores', 'labels'))
        )
        for kind, values in zip(('bboxes', 'scores', 'labels'), expected, strict=True):
            assert torch.equal(sample.pred_instances[kind], values)


@pytest.mark.parametrize('order', [1, -1])
def test_members_have_their_own_normalization(detector, order):
    """Also in the padding, whose value belongs to the normalization."""
    settings = [
        dict(IMAGENET, pad_size_divisor=32, pad_value=2.0), dict(PLAIN, pad_size_divisor=32)
    ][::order]  # fmt: skip
    members = [detector(seed=n) for n in range(2)]
    for member, one in zip(members, settings, strict=True):
        member.data_preprocessor = DetDataPreprocessor(**one)
    classroom = pair(*members, 'predictions').train()
    assert len(classroom.renormalizations) == 1
    batch = classroom.data_preprocessor(loaded(), True)
    for name, one in zip(('teacher', 'student'), settings, strict=True):
        separate = DetDataPreprocessor(**one)(loaded(), True)['inputs']
        found = classroom.inputs_of(name, **batch)
        torch.testing.assert_close(found, separate, rtol=1e-5, atol=2e-5)
        expected = copy.deepcopy(classroom.named_members()[name]).eval().test_step(loaded())
        sample = copy.deepcopy(classroom).eval().test_step(loaded())[0]
        scores = getattr(sample.members, name).pred_instances.scores
        torch.testing.assert_close(scores, expected[0].pred_instances.scores, rtol=1e-3, atol=1e-5)


RESIZE = dict(type=BatchSyncRandomResize, random_size_range=(96, 96), interval=1)


def with_augments(member, numbers, *augments, **settings):
    member.data_preprocessor = DetDataPreprocessor(
        **numbers, batch_augments=list(augments) or None, **settings
    )
    return member


def test_batches_are_resized_for_all_members(detector):
    classroom = pair(
        with_augments(detector(seed=1), IMAGENET, RESIZE),
        with_augments(detector(), IMAGENET, RESIZE),
        'predictions',
        'features',
    ).train()
    separate = copy.deepcopy(classroom.members['student'].data_preprocessor)
    for size in (64, 96):
        batch, own = (
            one(loaded([(64, 64)] * 3), True) for one in (classroom.data_preprocessor, separate)
        )
        assert batch['inputs'].shape[2:] == (size, size)
        assert torch.equal(batch['inputs'], own['inputs'])
        for one, other in zip(batch['data_samples'], own['data_samples'], strict=True):
            assert torch.equal(one.gt_instances.bboxes, other.gt_instances.bboxes)
        losses = classroom(**batch, mode='loss')
        assert all(value.isfinite() for value in classroom.parse_losses(losses)[1].values())


def test_augmentations_that_differ_raise(detector):
    other = dict(RESIZE, random_size_range=(64, 96))
    with pytest.raises(ValueError, match='same for all trained members.*BatchSyncRandomResize'):
        pair(
            with_augments(detector(seed=1), IMAGENET, RESIZE),
            with_augments(detector(), IMAGENET, other),
            'predictions',
        )


@pytest.mark.parametrize('augment', [RESIZE, dict(type=BatchFixedSizePad, size=(96, 96))])
def test_augmentations_of_size_need_one_normalization(detector, augment):
    """Padding would be resized or added with the value of the other normalization."""
    with pytest.raises(ValueError, match=f'normalization of student.*{augment["type"].__name__}'):
        pair(
            with_augments(detector(seed=1), IMAGENET, augment),
            with_augments(detector(), PLAIN, augment),
            'predictions',
        )


def test_images_of_any_number_of_channels(detector):
    """A mean that is the same for all, as mmdet has means of 1 or 3 channels."""
    member = with_augments(detector(in_channels=5), dict(mean=[100.0], std=[50.0]))
    classroom = pair(member, copy.deepcopy(member), 'predictions').train()
    batch = loaded()
    batch['inputs'] = [torch.cat([image, image[:2]]) for image in batch['inputs']]
    losses = classroom(**classroom.data_preprocessor(batch, True), mode='loss')
    assert all(value.isfinite() for value in classroom.parse_losses(losses)[1].values())


def test_channels_last_changes_nothing(detector):
    classroom = pair(detector('gfl', seed=1), detector('gfl'), 'predictions', 'features').train()
    twin = copy.deepcopy(classroom)
    ChannelsLastHook().before_train(
        SimpleNamespace(model=twin, optim_wrapper=OptimWrapper(torch.optim.SGD(twin.parameters())))
    )
    batch = classroom.data_preprocessor(loaded(), True)
    found, expected = (
        one.parse_losses(one(**copy.deepcopy(batch), mode='loss'))[1] for one in (twin, classroom)
    )
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_members_compute_the_same(detector):
    classroom = pair(
        detector(seed=1), detector(), 'predictions', 'features', frozen=dict(teacher=None)
    ).train()
    batch = classroom.data_preprocessor(loaded(), True)
    twin = copy.deepcopy(classroom)
    parts = compile_members(twin, backend='eager')
    assert {part.partition('.')[0] for part in parts} == {'teacher', 'student'}
    found, expected = (
        one.parse_losses(one(**copy.deepcopy(batch), mode='loss'))[1] for one in (twin, classroom)
    )
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.parametrize('averaged', [False, True])
def test_checkpoint_of_mmdet_becomes_a_frozen_teacher(detector, tmp_path, averaged):
    """As mmdet's own tools save it, with weights that EMAHook averaged."""
    trained = detector(seed=4)
    state = trained.state_dict()
    checkpoint = dict(
        meta=dict(dataset_meta=dict(CLASSES=('a', 'b', 'c')), epoch=12, iter=100),
        state_dict=state,
        optimizer=dict(state={}, param_groups=[]),
        message_hub={},
    )
    if averaged:
        # EMAHook saves the averaged weights as state_dict.
        checkpoint['ema_state_dict'] = dict(steps=torch.tensor(3)) | {
            f'module.{key}': torch.zeros_like(value) for key, value in state.items()
        }
    torch.save(checkpoint, tmp_path / 'teacher.pth')
    frozen = dict(teacher=str(tmp_path / 'teacher.pth'))
    classroom = pair(detector.config(), detector.config(), 'predictions', frozen=frozen)
    for key, value in classroom.named_members()['teacher'].state_dict().items():
        assert torch.equal(value, state[key]), key


def test_checkpoints_that_do_not_fit_raise(detector, tmp_path, payload):
    path = tmp_path / 'teacher.pth'

    def build():
        pair(detector.config(), detector.config(), 'predictions', frozen=dict(teacher=str(path)))

    torch.save(detector(num_classes=7).state_dict(), path)
    with pytest.raises(ValueError, match=r'atss_cls.weight: expected shape \(3, .* got \(7, '):
        build()
    torch.save(detector('retinanet').state_dict(), path)
    with pytest.raises(ValueError, match='missing: bbox_head.atss_cls'):
        build()
    torch.save(dict(state_dict=detector().state_dict(), meta=payload(tmp_path / 'ran')), path)
    with pytest.raises(ValueError, match='is not a valid checkpoint'):
        build()
    config = dict(detector.config(), init_cfg=dict(type='Pretrained', checkpoint=str(path)))
    with pytest.raises(ValueError, match='is not a valid checkpoint'):
        pair(config, detector.config(), 'predictions', frozen=dict(teacher=None))
    assert not (tmp_path / 'ran').exists()
