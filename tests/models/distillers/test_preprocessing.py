"""Members with their own preprocessing, compared with each member evaluated separately."""

import copy

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.structures import PixelData
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.structures import DataSample
from mmseg.models import SegDataPreProcessor
from mmseg.structures import SegDataSample

from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.distillers.renormalization import Renormalization
from mmkdml.models.member_tta import MemberTTA
from mmkdml.registry import MODELS

IMAGENET = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
PLAIN = dict(mean=[0.0, 10.0, 20.0], std=[255.0, 200.0, 100.0])
CUTMIX = dict(augments=dict(type='mmpretrain.CutMix', alpha=1.0))
MIXUP = dict(augments=[dict(type='mmpretrain.Mixup', alpha=1.0)])


def cls_settings(numbers=None, **options):
    return dict(type=ClsDataPreprocessor, **(numbers or {}), **options)


def seg_settings(numbers=None, **options):
    options = dict(dict(size_divisor=32, test_cfg=dict(size_divisor=32)), **options)
    return dict(type=SegDataPreProcessor, **(numbers or {}), **options)


@pytest.fixture
def member(tiny):
    """Network with its own preprocessing."""

    def make(preprocessor=None, soft=False, **options):
        if preprocessor is not None and preprocessor['type'] is SegDataPreProcessor:
            network = tiny.segmentor()
        else:
            network = tiny.classifier()
            if soft:
                network['head']['loss'].update(use_soft=True)
        if preprocessor is not None:
            network['data_preprocessor'] = preprocessor
        return dict(network, **options)

    return make


def room(members, transfers=(), **options):
    transfers = [Transfer(*row, 'predictions', 1.0) for row in transfers]
    options.setdefault('students', list(members))
    return KnowledgeDistiller(members, transfers, input_size=(32, 32), **options)


def pixels(*sizes, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (3, *size), dtype=torch.uint8, generator=rng) for size in sizes]


def batch_of(kind, *sizes):
    """New batch of a data loader at each call, because preprocessors modify samples."""
    if kind is ClsDataPreprocessor:
        samples = [DataSample().set_gt_label(index % 3) for index in range(len(sizes))]
    else:
        samples = [
            SegDataSample(
                metainfo=dict(ori_shape=size, img_shape=size),
                gt_sem_seg=PixelData(data=torch.zeros(1, *size, dtype=torch.long)),
            )
            for size in sizes
        ]
    return dict(inputs=pixels(*sizes), data_samples=samples)


DIFFERENT = {
    'cls': (cls_settings(IMAGENET, to_rgb=True), cls_settings(PLAIN), 'to_rgb'),
    'cls none': (cls_settings(IMAGENET, to_rgb=True), cls_settings(), 'to_rgb'),
    'cls order': (cls_settings(IMAGENET, to_rgb=True), cls_settings(IMAGENET), 'to_rgb'),
    'seg': (seg_settings(IMAGENET, bgr_to_rgb=True), seg_settings(PLAIN), ''),
    'seg padding': (seg_settings(IMAGENET), seg_settings(IMAGENET, pad_val=-3.5), ''),
}


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('case', DIFFERENT)
@pytest.mark.parametrize('order', [1, -1])
def test_inputs_equal_those_of_separate_members(member, case, order, training):
    first, second = DIFFERENT[case][:2][::order]
    # One image is padded, because the value of padding depends on the normalization.
    sizes = [(32, 32)] * 2 if case.startswith('cls') else [(20, 28)] * 2
    for frozen in (None, dict(b=None)):
        classroom = room(dict(a=member(first), b=member(second)), frozen=frozen, students=['a'])
        batch = classroom.data_preprocessor(batch_of(first['type'], *sizes), training)
        for name, settings in (('a', first), ('b', second)):
            separate = MODELS.build(settings)(batch_of(first['type'], *sizes), training)['inputs']
            own = classroom.inputs_of(name, **batch)
            torch.testing.assert_close(own, separate, rtol=1e-5, atol=2e-5)
    assert len(classroom.renormalizations) == 1


@pytest.mark.parametrize('case', ['cls', 'seg'])
def test_losses_and_predictions_equal_those_of_separate_members(member, case):
    first, second = DIFFERENT[case][:2]
    size = (32, 32) if case == 'cls' else (20, 28)
    classroom = room(
        dict(a=member(first), b=member(second)), [('b', 'a')], frozen=dict(b=None), students=['a']
    ).eval()
    batch = classroom.data_preprocessor(batch_of(first['type'], size, size), case == 'seg')
    logits = classroom(**batch, mode='tensor')
    losses = classroom(**batch, mode='loss')
    separate = {}
    for name, settings in (('a', first), ('b', second)):
        network = classroom.named_members()[name]
        data = MODELS.build(settings)(batch_of(first['type'], size, size), case == 'seg')
        with torch.no_grad():
            separate[name] = network(data['inputs'], mode='tensor')
            supervised = network(**data, mode='loss')
        torch.testing.assert_close(logits[name], separate[name], rtol=1e-4, atol=1e-5)
        if name == 'a':
            for key, value in supervised.items():
                if 'loss' in key:
                    torch.testing.assert_close(losses[f'a.{key}'].detach(), value.detach())
    transfer = MODELS.build(dict(type='PredictionKLLoss'))(separate['a'], separate['b'])
    torch.testing.assert_close(losses['a.loss_from_b.predictions'].detach(), transfer)
    # Predictions of the frameworks.
    samples = classroom.test_step(batch_of(first['type'], size, size))
    for name, settings in (('a', first), ('b', second)):
        network = classroom.named_members()[name]
        data = MODELS.build(settings)(batch_of(first['type'], size, size), False)
        with torch.no_grad():
            expected = network(**data, mode='predict')
        for sample, one in zip(samples, expected, strict=True):
            found = getattr(sample.members, name)
            if case == 'cls':
                torch.testing.assert_close(found.pred_score, one.pred_score, rtol=1e-4, atol=1e-5)
            else:
                ends = (found.seg_logits.data, one.seg_logits.data)
                torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)


def test_sliding_window_uses_the_members_normalization(member):
    slide = ConfigDict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    first, second = seg_settings(IMAGENET, bgr_to_rgb=True), seg_settings(PLAIN)
    classroom = room(dict(a=member(first), b=member(second, test_cfg=slide))).eval()
    (sample,) = classroom.test_step(batch_of(SegDataPreProcessor, (40, 60)))
    data = MODELS.build(second)(batch_of(SegDataPreProcessor, (40, 60)), False)
    with torch.no_grad():
        (separate,) = classroom.named_members()['b'](**data, mode='predict')
    found = sample.members.b.seg_logits.data
    torch.testing.assert_close(found, separate.seg_logits.data, rtol=1e-4, atol=1e-5)


def test_test_time_augmentation_uses_the_members_normalization(member):
    first, second = cls_settings(IMAGENET, to_rgb=True), cls_settings(PLAIN)
    classroom = room(dict(a=member(first), b=member(second))).eval()
    views = [batch_of(ClsDataPreprocessor, (32, 32)), batch_of(ClsDataPreprocessor, (32, 32))]
    views[1]['inputs'] = [image.flip(2) for image in views[1]['inputs']]
    tta = MemberTTA(classroom).eval()
    (sample,) = tta.test_step({key: [view[key] for view in views] for key in views[0]})
    with torch.no_grad():
        scores = [
            classroom.named_members()['b'](**MODELS.build(second)(view), mode='predict')[0]
            for view in views
        ]
    expected = torch.stack([one.pred_score for one in scores]).mean(dim=0)
    torch.testing.assert_close(sample.members.b.pred_score, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('kind', [cls_settings, seg_settings])
def test_equal_preprocessors_share_the_batch(member, kind):
    settings = kind(IMAGENET)
    torch.manual_seed(0)
    stated = room(dict(a=member(settings), b=member(settings)), [('a', 'b')])
    torch.manual_seed(0)
    bare = dict(member(settings))
    bare.pop('data_preprocessor')
    plain = room(dict(a=bare, b=bare), [('a', 'b')], data_preprocessor=settings)
    assert not stated.renormalizations
    losses = []
    for one in (stated, plain):
        batch = one.data_preprocessor(batch_of(settings['type'], (32, 32), (32, 32)), True)
        assert one.inputs_of('a', **batch) is batch['inputs']
        assert not one.data_preprocessor._forward_hooks
        losses.append(one(**batch, mode='loss'))
    assert losses[0].keys() == losses[1].keys()
    for key, value in losses[0].items():
        assert torch.equal(*map(torch.as_tensor, (value, losses[1][key]))), key


def test_first_member_without_preprocessor_is_skipped(member):
    classroom = room(dict(a=member(), b=member(cls_settings(IMAGENET)), c=member()))
    assert classroom.data_preprocessor.mean.flatten().tolist() == pytest.approx(IMAGENET['mean'])
    assert not classroom.renormalizations


def test_preprocessors_of_modules_are_used(member):
    built = {
        name: MODELS.build(member(copy.deepcopy(settings)))
        for name, settings in (
            ('a', cls_settings(IMAGENET)),
            ('b', cls_settings(PLAIN)),
            ('c', None),
        )
    }
    assert list(room(built).renormalizations) == ['b']


@pytest.mark.parametrize('classroom_settings', [None, cls_settings(IMAGENET)])
def test_augmentations_of_members_are_used(member, classroom_settings):
    students = dict(a=member(soft=True, train_cfg=MIXUP), b=member(soft=True, train_cfg=MIXUP))
    before = copy.deepcopy((students, classroom_settings))
    classroom = room(students, data_preprocessor=classroom_settings)
    assert (students, classroom_settings) == before
    np.random.seed(0)
    torch.manual_seed(0)
    data = batch_of(ClsDataPreprocessor, *[(32, 32)] * 6)
    batch = classroom.data_preprocessor(data, True)
    scores = torch.stack([sample.gt_score for sample in batch['data_samples']])
    assert scores.shape == (6, 3)
    assert ((scores > 0) & (scores < 1)).any()
    assert all(value.isfinite() for value in classroom(**batch, mode='loss').values())
    with pytest.raises(ValueError, match='expected one label each'):
        classroom.task.truth(batch['data_samples'])


def test_mixed_batch_is_renormalized(member):
    first, second = cls_settings(IMAGENET, to_rgb=True), cls_settings(PLAIN)
    students = dict(
        a=member(first, soft=True, train_cfg=MIXUP), b=member(second, soft=True, train_cfg=MIXUP)
    )
    classroom = room(students)
    inputs = []
    for preprocessor in (classroom.data_preprocessor, classroom.preprocessor_of('b')):
        np.random.seed(0)
        torch.manual_seed(0)
        data = batch_of(ClsDataPreprocessor, (32, 32), (32, 32), (32, 32))
        for sample in data['data_samples']:
            sample.set_field(3, 'num_classes', field_type='metainfo')
        inputs.append(preprocessor(data, True))
    own = classroom.inputs_of('b', **inputs[0])
    torch.testing.assert_close(own, inputs[1]['inputs'], rtol=1e-5, atol=1e-5)


def test_one_config_may_build_two_members(member):
    # mmpretrain appends to the list of probabilities when it builds.
    augments = dict(augments=[dict(type='mmpretrain.CutMix', alpha=1.0)], probs=[0.5])
    student = member(cls_settings(IMAGENET), soft=True, train_cfg=augments)
    classroom = room(dict(a=student, b=student))
    assert classroom.data_preprocessor.batch_augments.probs == [0.5, 0.5]
    assert augments['probs'] == [0.5]


def test_augmentations_of_a_frozen_teacher_are_not_used(member):
    teacher = member(cls_settings(IMAGENET), train_cfg=MIXUP)
    classroom = room(dict(t=teacher, s=member()), [('t', 's')], frozen=dict(t=None), students=['s'])
    assert classroom.data_preprocessor.batch_augments is None
    assert classroom.data_preprocessor.to_onehot is False
    batch = classroom.data_preprocessor(batch_of(ClsDataPreprocessor, (32, 32), (32, 32)), True)
    assert classroom(**batch, mode='loss')['s.loss'].isfinite()


@pytest.mark.parametrize(
    ('members', 'classroom_settings', 'message'),
    [
        (
            [dict(train_cfg=MIXUP), dict(train_cfg=CUTMIX)],
            None,
            'a: Mixup.*b: CutMix',
        ),
        (
            [dict(train_cfg=MIXUP), {}],
            cls_settings(batch_augments=dict(augments=dict(type='mmpretrain.Mixup', alpha=0.2))),
            'a: Mixup.*1.0.*the classroom: Mixup.*0.2',
        ),
        (
            [{}, dict(preprocessor=cls_settings(IMAGENET, pad_size_divisor=8))],
            cls_settings(IMAGENET),
            'of b: expected pad_size_divisor=1, .*got 8',
        ),
        (
            [{}, dict(preprocessor=cls_settings(PLAIN, to_onehot=True, num_classes=3))],
            cls_settings(IMAGENET),
            'of b: expected to_onehot=False, .*got True',
        ),
        (
            [{}, dict(preprocessor=cls_settings(IMAGENET))],
            dict(type='mmengine.ImgDataPreprocessor'),
            'of b: expected ImgDataPreprocessor, .*got ClsDataPreprocessor',
        ),
        (
            [dict(preprocessor=seg_settings(size=(64, 64), size_divisor=None)),
             dict(preprocessor=seg_settings(PLAIN))],
            None,
            r'of b: expected size=\[64, 64\], .*got None',
        ),
    ],
)  # fmt: skip
def test_preprocessors_that_cannot_share_a_batch_raise(
    member, members, classroom_settings, message
):
    members = {
        name: member(soft='train_cfg' in options, **options)
        for name, options in zip('ab', members, strict=True)
    }
    with pytest.raises(ValueError, match=message):
        room(members, data_preprocessor=classroom_settings)


class Sharpen:
    """Batch augmentation that may not commute with normalization."""

    def __call__(self, inputs, scores):
        return inputs.sign(), scores


def test_other_augmentations_need_a_shared_normalization(member):
    classroom_settings = cls_settings(
        IMAGENET, batch_augments=dict(augments=[Sharpen()]), num_classes=3
    )
    room(dict(a=member(), b=member(cls_settings(IMAGENET))), data_preprocessor=classroom_settings)
    with pytest.raises(ValueError, match='normalization of b.*Mixup, CutMix, ResizeMix.*Sharpen'):
        room(dict(a=member(), b=member(cls_settings(PLAIN))), data_preprocessor=classroom_settings)


def test_padding_mixed_with_pixels_raises(member):
    classroom = room(
        dict(
            a=member(cls_settings(IMAGENET), soft=True, train_cfg=MIXUP),
            b=member(cls_settings(PLAIN), soft=True),
        )
    )
    batch = classroom.data_preprocessor(batch_of(ClsDataPreprocessor, (32, 32), (24, 32)), True)
    with pytest.raises(ValueError, match=r'Mixup.*\(24, 32\), \(32, 32\) padded to \(32, 32\)'):
        classroom(**batch, mode='loss')


def test_cache_uses_the_normalization_of_the_frozen_teacher(member, tmp_path):
    cache = dict(path=tmp_path / 'cache.sqlite', limit=1)
    members = dict(t=member(cls_settings(PLAIN)), s=member(cls_settings(IMAGENET, to_rgb=True)))
    classroom = room(
        members, [('t', 's')], frozen=dict(t=None), students=['s'], teacher_cache=cache
    ).eval()
    batch = classroom.data_preprocessor(batch_of(ClsDataPreprocessor, (32, 32)), False)
    separate = MODELS.build(cls_settings(PLAIN))(batch_of(ClsDataPreprocessor, (32, 32)))['inputs']
    with torch.no_grad():
        expected = classroom.named_members()['t'](separate, mode='tensor')
    for found in (0, 1):
        outputs, measures = classroom.forward_frozen('t', **batch)
        assert measures['t.cached'] == found
        torch.testing.assert_close(outputs.logits, expected, rtol=1e-4, atol=1e-5)


def test_renormalization_keeps_the_dtype(member):
    first, second = cls_settings(IMAGENET, to_rgb=True), cls_settings(PLAIN)
    classroom = room(dict(a=member(first), b=member(second)))
    batch = classroom.data_preprocessor(batch_of(ClsDataPreprocessor, (32, 32)), False)
    expected = classroom.inputs_of('b', batch['inputs'])
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert torch.equal(classroom.inputs_of('b', batch['inputs']), expected)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        own = classroom.inputs_of('b', batch['inputs'].to(dtype))
        assert own.dtype == dtype
        torch.testing.assert_close(own.float(), expected, rtol=1e-2, atol=1e-2)


def test_renormalization_is_copied_but_not_saved(member):
    members = dict(a=member(cls_settings(IMAGENET)), b=member(cls_settings(PLAIN)))
    classroom = room(members)
    assert not [key for key in classroom.state_dict() if 'renormal' in key or 'scale' in key]
    inputs = torch.rand(1, 3, 32, 32)
    twin = copy.deepcopy(classroom)
    assert torch.equal(twin.inputs_of('b', inputs), classroom.inputs_of('b', inputs))
    assert not torch.equal(twin.inputs_of('b', inputs), inputs)


def test_members_run_once_per_step(member):
    classroom = room(
        dict(a=member(cls_settings(IMAGENET)), b=member(cls_settings(PLAIN))), [('a', 'b')]
    )
    calls = []
    for name, one in classroom.named_members().items():
        one.backbone.register_forward_hook(lambda *_, name=name: calls.append(name))
    batch = classroom.data_preprocessor(batch_of(ClsDataPreprocessor, (32, 32), (32, 32)), True)
    classroom(**batch, mode='loss')
    assert calls == ['a', 'b']


@pytest.mark.parametrize('bare', [True, False])
def test_unused_normalization_warns(member, bare, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmkdml.models.distillers.preprocessing.print_log',
        lambda text, level=0, **_: logged.append(text) if level else None,
    )
    members = dict(a=member(cls_settings(PLAIN)), b=member(None if bare else cls_settings(PLAIN)))
    classroom = room(members, data_preprocessor=cls_settings(IMAGENET))
    assert list(classroom.renormalizations) == (['a'] if bare else ['a', 'b'])
    assert len(logged) == (0 if bare else 1)
    assert bare or 'no effect: a, b' in logged[0]


def test_other_settings_of_members_are_kept(tiny):
    pretrained = 'https://example.org/resnet.pth'
    classes = dict(tiny.classifier(), _scope_='mmpretrain', pretrained=pretrained)
    student = room(dict(a=classes)).named_members()['a']
    assert student.init_cfg == dict(type='Pretrained', checkpoint=pretrained)
    teacher, student = tiny.mmseg_pair()
    slide = ConfigDict(mode='slide', crop_size=(16, 16), stride=(8, 8))
    students = room(dict(a=dict(student, test_cfg=slide, train_cfg=dict(own=1)))).named_members()
    assert students['a'].test_cfg == slide
    assert students['a'].train_cfg == dict(own=1)
    assert len(students['a'].auxiliary_head) == 2


@pytest.mark.parametrize('channels', [1, 2, 3, 4, 13])
@pytest.mark.parametrize('same_for_all', [False, True])
def test_renormalization_of_any_number_of_channels(channels, same_for_all):
    # The frameworks reverse the channels only of three.
    number = 1 if same_for_all else channels
    first = cls_settings(dict(mean=[*range(channels)], std=[*range(1, channels + 1)]), to_rgb=True)
    second = cls_settings(
        dict(mean=[5 + i for i in range(number)], std=[3 + i for i in range(number)])
    )
    shared, own = MODELS.build(first), MODELS.build(second)
    images = torch.randint(256, (2, channels, 8, 8), dtype=torch.uint8)
    inputs, expected = (one(dict(inputs=images))['inputs'] for one in (shared, own))
    torch.testing.assert_close(Renormalization(shared, own)(inputs), expected, rtol=1e-5, atol=2e-5)
