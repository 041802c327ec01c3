"""The advice of error messages works when it is followed."""

import re

import pytest
import torch

from mmkdml.models import (
    MODES,
    STYLES,
    DiversifiedKDMLDistiller,
    FeatureMSELoss,
    KnowledgeDistiller,
)
from mmkdml.models.distillers.terms.advice import as_code
from mmkdml.registry import MODELS

SIZE = (32, 32)
F, P = 'features', 'predictions'


def settings_in(message):
    """Return the settings that a message advises."""
    (text,) = re.findall(r'Set (.*?)(?: in the transfer .*)?$', message)
    return eval(f'dict({text.replace(" and projectors=", ", projectors=")})', {'dict': dict})


def classifier_pair(tiny):
    return tiny.classifier(width=6), tiny.classifier()


def segmentor_pair(tiny):
    return tiny.segmentor(width=6, first=8), tiny.segmentor()


def coarse_pair(tiny):
    """Logits of strides 8 and 4."""
    teacher, student = tiny.mmseg_pair()
    student['decode_head'] = dict(student['decode_head'], in_index=0, in_channels=8)
    student.pop('auxiliary_head')
    return teacher, student


CASES = {
    'channels': (classifier_pair, F, {}),
    'size': (
        segmentor_pair, F,
        dict(learner_tap='decode_head.blocks.1', source_tap='decode_head.blocks.2'),
    ),
    'size and channels': (classifier_pair, F, dict(source_tap='backbone.layer2')),
    'channels of vectors': (classifier_pair, F, dict(source_tap='neck', learner_tap='neck')),
    'a vector and a map': (classifier_pair, F, dict(source_tap='head')),
    'a map and a vector': (classifier_pair, F, dict(learner_tap='neck')),
    'a vector and a finer map': (
        classifier_pair, F, dict(source_tap='head', learner_tap='backbone.layer2')
    ),
    'channels and size of masks': (segmentor_pair, F, dict(source_tap='decode_head.blocks.3')),
    'strides of predictions': (coarse_pair, P, {}),
    'an unnecessary projector': (
        lambda tiny: (tiny.classifier(), tiny.classifier()), P,
        dict(projector=dict(type='mmkdml.LinearProjector', out_channels=7)),
    ),
    'a projector of channels only': (
        classifier_pair, F,
        dict(source_tap='backbone.layer2', projector=dict(type='mmkdml.ConvProjector')),
    ),
    'a projector of sizes only': (
        classifier_pair, F,
        dict(
            source_tap='backbone.layer2',
            projector=dict(type='mmkdml.InterpolateProjector', side='source'),
        ),
    ),
    'a loss that projects channels': (
        segmentor_pair, F,
        dict(source_tap='decode_head.blocks.3', loss=dict(type='mmkdml.ChannelWiseLoss')),
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', CASES)
def test_transfer_that_follows_the_advice_trains(tiny, case):
    pair, knowledge, options = CASES[case]
    teacher, student = pair(tiny)

    def build(**changes):
        row = dict(source='teacher', learner='student', knowledge=knowledge, weight=1.0)
        return KnowledgeDistiller(
            dict(teacher=teacher, student=student), [row | options | changes], input_size=SIZE
        )

    with pytest.raises(ValueError, match='teacher -> student') as error:
        build()
    room = build(**settings_in(str(error.value)))
    classifies = room.task.name == 'classification'
    samples = tiny.class_samples(2) if classifies else tiny.mask_samples(2)
    losses = room(tiny.images(2), samples, mode='loss')
    (key,) = [key for key in losses if 'loss_from_teacher' in key]
    assert losses[key].isfinite()


@pytest.mark.parametrize('size', [(32, 32), (64, 32), (50, 70)])
def test_advised_projector_resizes_maps_of_any_ratio(tiny, size):
    # A third of the size, and different ratios of height and width.
    row = dict(source='t', learner='s', knowledge=F, weight=1.0, learner_tap='backbone.layer1')

    def build(**changes):
        members = dict(t=tiny.classifier(), s=tiny.classifier())
        return KnowledgeDistiller(members, [row | changes], input_size=size)

    with pytest.raises(ValueError, match='t -> s') as error:
        build()
    build(**settings_in(str(error.value)))


@pytest.mark.parametrize('style', STYLES)
@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('pair', [coarse_pair, classifier_pair])
def test_paper_classroom_that_follows_the_advice_is_built(tiny, mode, style, pair):
    weights = dict(alpha=(1, 1), beta=(1, 1), gamma=(1, 1))
    used = {'ml': 'alpha gamma', 'kdml': 'alpha beta gamma'}.get(mode, 'alpha beta').split()
    teacher, student = pair(tiny)
    other = teacher if mode == 'ml' else student
    options = dict(
        mode=mode,
        style=style,
        teacher=teacher,
        students=[student, other],
        weights={key: weights[key] for key in used},
        taps=dict(teacher='backbone.layer2') if mode != 'ml' and style != 'v1' else None,
        input_size=SIZE,
    )
    try:
        DiversifiedKDMLDistiller(**options)
    except ValueError as error:
        room = DiversifiedKDMLDistiller(**options | settings_in(str(error)))
        assert any(row.projector for row in room.transfers)
    else:
        assert (pair, style) == (classifier_pair, 'v1') or (mode, style) == ('ml', 'v2')


def test_advice_keeps_existing_projectors(tiny):
    teacher, student = coarse_pair(tiny)
    options = dict(
        mode='kd_on', style='v1', teacher=teacher, students=[student, student],
        weights=dict(alpha=(1, 1), beta=(1, 1)), input_size=SIZE,
    )  # fmt: skip
    own = dict(type='mmkdml.InterpolateProjector', scale_factor=2)
    own = dict(own, side='source')
    with pytest.raises(ValueError, match='student_2') as error:
        DiversifiedKDMLDistiller(**options, projectors={'teacher->student_1': own})
    advised = settings_in(str(error.value))
    assert advised['projectors']['teacher->student_1'] == own
    DiversifiedKDMLDistiller(**options | advised)


def test_projector_without_features_warns(tiny, monkeypatch):
    logged = []
    monkeypatch.setattr(
        'mmkdml.models.distillers.diversified_kdml.print_log', lambda text, **_: logged.append(text)
    )
    options = dict(
        mode='ml', style='v1', students=[tiny.classifier()] * 2,
        weights=dict(alpha=(1, 1), gamma=(1, 1)), input_size=SIZE,
    )  # fmt: skip
    DiversifiedKDMLDistiller(**options, projectors=dict(type='mmkdml.ConvProjector'))
    (text,) = logged
    assert re.search('projectors=.*no effect.*v1.*student_2->student_1', text)


@pytest.mark.parametrize('kind', ['classifier', 'segmentor'])
def test_different_numbers_of_logits_have_advice_without_projector(tiny, kind):
    def pair(classes):
        if kind == 'classifier':
            return tiny.classifier(num_classes=classes), tiny.classifier()
        return tiny.segmentor(out_channels=classes), tiny.segmentor(out_channels=3)

    def build(classes):
        teacher, student = pair(classes)
        row = dict(source='teacher', learner='student', knowledge=P, weight=1.0)
        return KnowledgeDistiller(
            dict(teacher=teacher, student=student), [row], input_size=SIZE, students=['student']
        )

    with pytest.raises(
        ValueError, match='same number of logits .*num_classes; .* out_channels'
    ) as e:
        build(5)
    assert 'Set ' not in str(e.value)
    build(3)


def test_code_evaluates_to_the_value():
    value = {'a->b': dict(type='x', size=(1, 2), inner=[dict(y=None)]), 'c': None}
    assert eval(as_code(value), {'dict': dict}) == value
    assert as_code(dict(type=FeatureMSELoss)) == 'dict(type=FeatureMSELoss)'


# Invalid call, part of the message, and call that follows the advice.
def reg(size, **options):
    return lambda: MODELS.build(
        dict(
            type='ConvReg', in_channels=2, out_channels=3, in_size=(8, 4), out_size=size, **options
        )
    )


def holistic(size):
    def run():
        loss = MODELS.build(
            dict(type='HolisticLoss', learner_channels=2, source_channels=2, width=8)
        )
        return loss(torch.zeros(1, 2, size, size), torch.zeros(1, 2, size, size))

    return run


def semckd(batch_size, factor=4):
    def run():
        loss = MODELS.build(
            dict(
                type='SemCKDLoss',
                learner_channels=4,
                source_channels=4,
                batch_size=batch_size,
                factor=factor,
            )
        )
        return loss(torch.rand(8, 4, 4, 4), torch.rand(8, 4, 4, 4))

    return run


def projected(number):
    return lambda: MODELS.build(dict(type='SimKDProjector', in_channels=2, out_channels=4)).train()(
        torch.rand(number, 2, 1, 1)
    )


def resized(**options):
    return lambda: MODELS.build(dict(type='InterpolateProjector', **options))


OTHERS = {
    'taps that shrink, stay or double': (reg((4, 6)), 'Choose other taps', reg((4, 2))),
    "reference='simkd'": (
        reg((10, 6), reference='repdistiller'),
        "or reference='simkd'",
        reg((10, 6), reference='simkd'),
    ),
    'larger images': (holistic(32), '64x64.*Use larger images', holistic(64)),
    'the batch size of the loader': (semckd(4), 'batch_size=4 .*got 8', semckd(8)),
    'larger batches': (semckd(2), 'Use larger ', semckd(8)),
    'a smaller factor': (semckd(8, 9), 'or a smaller factor', semckd(8, 2)),
    'two images': (projected(1), 'batch_size of at least 2', projected(2)),
    'a scale factor': (resized(), 'set scale_factor', resized(scale_factor=2)),
}  # fmt: skip


@pytest.mark.parametrize('case', OTHERS)
def test_other_advice_is_valid(case):
    refused, message, advised = OTHERS[case]
    with pytest.raises(ValueError, match=message):
        refused()
    advised()


def two(tiny, row=None, members=None, **options):
    row = dict(source='teacher', learner='student', knowledge=P, weight=1.0) | (row or {})
    members = dict(teacher=tiny.classifier(), student=tiny.classifier()) | (members or {})
    return lambda: KnowledgeDistiller(members, [row], input_size=SIZE, **options)


def paper(tiny, **options):
    settings = dict(
        mode='kd_on',
        style='v1',
        teacher=tiny.classifier(),
        students=[tiny.classifier()] * 2,
        weights=dict(alpha=(1, 1), beta=(1, 1)),
        input_size=SIZE,
    )
    return lambda: DiversifiedKDMLDistiller(**settings | options)


def one_logit(tiny, **head):
    return dict(
        tiny.classifier(), head=dict(type='mmkdml.BinaryLinearClsHead', in_channels=32, **head)
    )


def simkd(tiny, neck):
    """A student that reuses the classifier of a wider teacher."""
    teacher = tiny.classifier(width=6)
    head = teacher['head'] if neck == NECK else tiny.classifier()['head']
    return two(
        tiny,
        dict(
            knowledge=F,
            loss=dict(type='mmkdml.SimKDLoss'),
            learner_tap='neck.projector' if neck == NECK else None,
        ),
        dict(teacher=teacher, student=dict(tiny.classifier(), neck=neck, head=head)),
        frozen=dict(teacher=None),
        reused_classifiers=dict(student='teacher'),
    )


def mixed(tiny, first, second):
    augment = [dict(augments=dict(type='mmpretrain.Mixup', alpha=alpha)) for alpha in (0.2, 1.0)]
    members = {}
    for name, place in (('teacher', first), ('student', second)):
        members[name] = tiny.classifier()
        members[name]['head']['loss'].update(use_soft=True)
        if place is not None:
            members[name]['train_cfg'] = augment[place]
    return two(tiny, members=members)


def padded(tiny, first, second):
    kind = 'mmpretrain.ClsDataPreprocessor'
    members = {
        name: dict(tiny.classifier(), data_preprocessor=dict(type=kind, pad_size_divisor=size))
        for name, size in (('teacher', first), ('student', second))
    }
    return two(tiny, members=members)


GAP, NECK = (
    dict(type='mmpretrain.GlobalAveragePooling'),
    dict(type='mmkdml.SimKDNeck', in_channels=32, out_channels=48),
)
# Invalid classroom, part of the message, and classroom that follows the advice.
CLASSROOMS = {
    'no taps for predictions': (
        lambda tiny: two(tiny, dict(source_tap='backbone')),
        'Remove source_tap and learner_tap', two,
    ),
    'or features': (
        lambda tiny: two(tiny, dict(source_tap='backbone')),
        "or set knowledge='features'",
        lambda tiny: two(tiny, dict(source_tap='backbone', knowledge=F)),
    ),
    'near names': (
        lambda tiny: two(tiny, dict(knowledge=F, source_tap='backbone.layr4')),
        'but backbone.layer4',
        lambda tiny: two(tiny, dict(knowledge=F, source_tap='backbone.layer4')),
    ),
    'the module after an inplace one': (
        lambda tiny: two(tiny, dict(knowledge=F, source_tap='backbone.layer4.1.norm2')),
        'modified in place .*the activation or the block',
        lambda tiny: two(tiny, dict(knowledge=F, source_tap='backbone.layer4.1')),
    ),
    'a frozen teacher for its cache': (
        lambda tiny: two(tiny, teacher_cache=dict(path='x', limit=1)),
        'or freeze the teacher',
        lambda tiny: two(tiny, teacher_cache=dict(path='x', limit=1), frozen=dict(teacher=None)),
    ),
    'no cache': (
        lambda tiny: two(tiny, teacher_cache=dict(path='x', limit=1)), 'Leave it out', two
    ),
    'an init_cfg for a teacher that learns': (
        lambda tiny: paper(tiny, teacher_checkpoint='x.pth'),
        'Set init_cfg',
        lambda tiny: paper(
            tiny, teacher=dict(tiny.classifier(), init_cfg=dict(type='Pretrained', checkpoint='x'))
        ),
    ),
    'any number of students': (
        lambda tiny: paper(tiny, students=[tiny.classifier()]), 'Use KnowledgeDistiller', two
    ),
    'without the letter': (
        lambda tiny: paper(tiny, weights=dict(alpha=(1, 1), beta=(1, 1), gamma=(1, 1))),
        'Leave gamma out', paper,
    ),
    'a threshold of 0.5 in all': (
        lambda tiny: two(
            tiny, members=dict.fromkeys(('teacher', 'student'), one_logit(tiny, threshold=0.4))
        ),
        'threshold=0.5 in all',
        lambda tiny: two(tiny, members=dict(teacher=one_logit(tiny), student=one_logit(tiny))),
    ),
    'SimKDNeck': (
        lambda tiny: simkd(tiny, GAP), 'with SimKDNeck',
        lambda tiny: simkd(tiny, NECK),
    ),
    'the same augmentations': (
        lambda tiny: mixed(tiny, 0, 1), 'Set the same train_cfg.augments',
        lambda tiny: mixed(tiny, 1, 1),
    ),
    'no augmentations': (
        lambda tiny: mixed(tiny, 0, 1), 'or leave them out', lambda tiny: mixed(tiny, None, None)
    ),
    'the same padding': (
        lambda tiny: padded(tiny, 8, 16), 'use the same pad_size_divisor',
        lambda tiny: padded(tiny, 16, 16),
    ),
}  # fmt: skip


@pytest.mark.parametrize('case', CLASSROOMS)
def test_classroom_that_follows_the_advice_is_built(tiny, case):
    refused, message, advised = CLASSROOMS[case]
    with pytest.raises(ValueError, match=message):
        refused(tiny)()
    advised(tiny)()
