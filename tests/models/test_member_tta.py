import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import DefaultScope
from mmengine.structures import BaseDataElement, InstanceData
from mmpretrain.models import AverageClsScoreTTA
from mmpretrain.structures import DataSample
from mmseg.models.segmentors import SegTTAModel
from mmseg.structures import SegDataSample

import mmkdml.models
from mmkdml.models.member_tta import FoldEnsemble, MemberTTA
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[2] / 'configs' / 'demo'
SIZE = dict(ori_shape=(40, 48), img_shape=(64, 64))
FLIPS = [
    {},
    dict(flip=True, flip_direction='horizontal'),
    dict(flip=True, flip_direction='vertical'),
]


def classroom(name, **changes):
    torch.manual_seed(0)
    config = Config.fromfile(DEMO / f'{name}.py').model
    config.update(changes)
    return MODELS.build(config).eval()


def with_two_logits():
    config = Config.fromfile(DEMO / 'kdml_v3_demo.py').model
    for member in (config.teacher, *config.students):
        member.decode_head.update(out_channels=2, num_classes=2)
    torch.manual_seed(0)
    return MODELS.build(config).eval()


def views(sample_type, number=2):
    """Return a batch of TestTimeAug after collation, and each view as a separate batch."""
    torch.manual_seed(1)
    images = [torch.randint(256, (3, 64, 64), dtype=torch.uint8) for _ in range(number)]
    turned = [images, [one.flip(2) for one in images], [one.flip(1) for one in images]]
    return [
        dict(inputs=batch, data_samples=[sample_type(metainfo={**SIZE, **meta}) for _ in images])
        for batch, meta in zip(turned, FLIPS, strict=True)
    ]


def merged(model, sample_type):
    batches = views(sample_type)
    data = {key: [batch[key] for batch in batches] for key in batches[0]}
    with torch.no_grad():
        return MemberTTA(model).test_step(data), [
            model.test_step(batch) for batch in views(sample_type)
        ]


@pytest.mark.parametrize('build', [lambda: classroom('kdml_v3_demo'), with_two_logits])
def test_mean_probabilities_of_masks(build):
    samples, each = merged(build(), SegDataSample)

    def probabilities(sample):
        logits = sample.seg_logits.data
        return logits if len(logits) == 1 else logits.softmax(dim=0)

    def label(mean):
        return (mean > 0.5).long() if len(mean) == 1 else mean.argmax(dim=0, keepdim=True)

    for index, sample in enumerate(samples):
        expected = {}
        for name in ('teacher', 'student_1', 'student_2'):
            member = sample.members.get(name)
            expected[name] = torch.stack(
                [probabilities(view[index].members.get(name)) for view in each]
            ).mean(dim=0)
            torch.testing.assert_close(probabilities(member), expected[name])
            assert member.pred_sem_seg.data.equal(label(expected[name]))
            assert member.pred_sem_seg.shape == (40, 48)
        students = expected['student_1'], expected['student_2']
        union = torch.maximum(*map(label, students))
        assert sample.pred_sem_seg.data.equal(union)
        assert 0 < union.float().mean() < 1
        torch.testing.assert_close(
            sample.seg_logits.data[-1], torch.maximum(students[0][-1], students[1][-1])
        )
        one_view = each[0][index].pred_sem_seg.data
        assert not one_view.equal(sample.pred_sem_seg.data)  # the views differ


def test_mean_probabilities_of_classes():
    samples, each = merged(classroom('kdml_v3_demo_slices'), DataSample)
    for index, sample in enumerate(samples):
        expected = {}
        for name in ('teacher', 'student_1', 'student_2'):
            scores = [view[index].members.get(name).pred_score for view in each]
            expected[name] = torch.stack(scores).mean(dim=0)
            member = sample.members.get(name)
            torch.testing.assert_close(member.pred_score, expected[name])
            assert member.pred_label.tolist() == [int(expected[name].argmax())]
            assert not torch.equal(scores[0], member.pred_score)
        highest = torch.maximum(expected['student_1'], expected['student_2'])
        torch.testing.assert_close(sample.pred_score, highest)
        assert sample.pred_label.tolist() == [int(highest.argmax())]


@pytest.mark.parametrize(
    ('name', 'sample_type', 'field'),
    [
        ('kdml_v3_demo', SegDataSample, 'pred_sem_seg'),
        ('kdml_v3_demo_slices', DataSample, 'pred_score'),
    ],
)
def test_plain_network_predicts_like_a_member(name, sample_type, field):
    model = classroom(name)
    student = model.members['student_1']
    student.data_preprocessor = model.data_preprocessor
    plain, _ = merged(student, sample_type)
    combined, _ = merged(model, sample_type)
    for one, other in zip(plain, combined, strict=True):
        member = other.members.student_1
        assert 'members' not in one
        if field == 'pred_score':
            torch.testing.assert_close(one.pred_score, member.pred_score)
            assert one.pred_label.equal(member.pred_label)
        else:
            assert one.pred_sem_seg.data.equal(member.pred_sem_seg.data)
            torch.testing.assert_close(one.seg_logits.data, member.seg_logits.data)


def test_ensemble_and_labels_are_kept():
    model = classroom('kdml_v3_demo_slices', ensemble='mean')
    batches = views(DataSample)
    for batch in batches:
        for sample in batch['data_samples']:
            sample.set_gt_label(1)
    with torch.no_grad():
        samples = MemberTTA(model).test_step(
            {key: [batch[key] for batch in batches] for key in batches[0]}
        )
    for sample in samples:
        assert sample.gt_label.tolist() == [1]
        assert 'gt_label' not in sample.members.student_1
        mean = (sample.members.student_1.pred_score + sample.members.student_2.pred_score) / 2
        torch.testing.assert_close(sample.pred_score, mean)


def test_ground_truth_of_the_unflipped_view_is_kept():
    model, batches = classroom('kdml_v3_demo'), views(SegDataSample)[::-1]
    for number, batch in enumerate(batches):
        for sample in batch['data_samples']:
            sample.set_metainfo(dict(number=number))
    with torch.no_grad():
        samples = MemberTTA(model).test_step(
            {key: [batch[key] for batch in batches] for key in batches[0]}
        )
    assert [sample.number for sample in samples] == [2, 2]


def test_exported_name():
    assert mmkdml.models.MemberTTA is MemberTTA


def test_registered_name():
    config = Config.fromfile(DEMO / 'student_demo.py').model
    model = MMENGINE_MODELS.build(dict(type='mmkdml.MemberTTA', module=config))
    assert type(model) is MemberTTA


class Highest(MemberTTA):
    """Custom class of a user."""


@pytest.mark.parametrize(
    ('settings', 'kind'),
    [
        (None, MemberTTA),
        (dict(type=SegTTAModel), MemberTTA),
        (dict(type='mmpretrain.AverageClsScoreTTA'), MemberTTA),
        (dict(type=MemberTTA), MemberTTA),
        (dict(type=Highest), Highest),
    ],
)
def test_custom_class_is_kept_and_framework_classes_are_replaced(settings, kind):
    model = classroom('kdml_v3_demo')
    before = copy.deepcopy(settings)
    chosen = MemberTTA.of(model, settings)
    assert type(chosen) is kind
    assert chosen.module is model
    assert settings == before


@pytest.mark.parametrize('plain', [False, True])
def test_mean_probabilities_of_several_labels(plain):
    def network():
        return dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpretrain.ResNet', depth=18, base_channels=4, stem_channels=4),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.MultiLabelLinearClsHead', num_classes=3, in_channels=32),
        )

    torch.manual_seed(0)
    config = dict(
        type='mmkdml.KnowledgeDistiller',
        members=dict(a=network(), b=network()),
        transfers=[],
        input_size=(64, 64),
    )
    model = MODELS.build(network() if plain else config).eval()
    samples, each = merged(model, DataSample)
    for index, sample in enumerate(samples):
        own = [sample] if plain else [sample.members.get(name) for name in 'ab']
        by_view = [[v[index]] if plain else [v[index].members.get(k) for k in 'ab'] for v in each]
        for member, outputs in zip(own, zip(*by_view, strict=True), strict=True):
            mean = torch.stack([one.pred_score for one in outputs]).mean(0)
            torch.testing.assert_close(member.pred_score, mean)
            assert member.pred_label.tolist() == (mean >= 0.5).nonzero()[:, 0].tolist()
        highest = torch.stack([one.pred_score for one in own]).amax(0)
        torch.testing.assert_close(sample.pred_score, highest)


def test_names_without_scope_are_those_of_the_default_scope():
    model = classroom('kdml_v3_demo')
    with DefaultScope.overwrite_default_scope('mmseg'):
        assert type(MemberTTA.of(model, dict(type='SegTTAModel'))) is MemberTTA
    for settings in (dict(type='mmseg.Unknown'), dict(data_preprocessor=None)):
        with pytest.raises(ValueError, match='tta_model: .*mmkdml.MemberTTA.*got'):
            MemberTTA.of(model, settings)


def test_stock_classes_agree_for_a_student():
    """With several logits; mmseg's class applies the sigmoid of a single one twice."""
    for model, sample_type, stock in (
        (with_two_logits(), SegDataSample, SegTTAModel),
        (classroom('kdml_v3_demo_slices'), DataSample, AverageClsScoreTTA),
    ):
        student = model.members['student_1']
        student.data_preprocessor = model.data_preprocessor
        found = []
        for kind in (stock, MemberTTA):
            batches = views(sample_type)
            for sample in (one for batch in batches for one in batch['data_samples']):
                sample.set_metainfo(dict(img_path='x'))
            data = {key: [batch[key] for batch in batches] for key in batches[0]}
            with torch.no_grad():
                found.append(kind(student).test_step(data))
        for one, other in zip(*found, strict=True):
            if stock is SegTTAModel:
                expected = one.pred_sem_seg.data
                assert 0 < expected.float().mean() < 1
                assert expected.equal(other.pred_sem_seg.data)
            else:
                torch.testing.assert_close(one.pred_score, other.pred_score)


def boxes_of_views(size, true, seen=((0.9, 0.3), (0.6, 0.3), (0.3, 0.0))):
    """Return samples of mmdet of an image and its flips, whose first box is seen in all views."""
    from mmdet.structures import DetDataSample

    height, width = size
    samples = []
    for flip, scores in zip(FLIPS, seen, strict=True):
        boxes = torch.tensor(true, dtype=torch.float32)
        x, y = boxes[:, 0::2].clone(), boxes[:, 1::2].clone()
        if flip.get('flip_direction') == 'horizontal':
            x = (width - x).flip(1)
        if flip.get('flip_direction') == 'vertical':
            y = (height - y).flip(1)
        shown = torch.tensor(scores) > 0
        found = InstanceData(
            bboxes=torch.stack([x, y], 2).flatten(1)[shown],
            scores=torch.tensor(scores)[shown],
            labels=torch.tensor([2, 1])[shown],
        )
        meta = dict(ori_shape=size, img_shape=(64, 64), **flip)
        samples.append(DetDataSample(metainfo=meta, pred_instances=found))
    return samples


def test_boxes_of_flipped_views_are_fused(detector):
    """By hand: all views agree on the places, and the score is the mean over all views."""
    true = [(10, 4, 30, 9), (40, 0, 44, 20)]
    (merged,) = MemberTTA(detector()).merge_preds([boxes_of_views((20, 50), true)])
    found = merged.pred_instances
    assert found.labels.tolist() == [2, 1]
    torch.testing.assert_close(found.bboxes, torch.tensor(true, dtype=torch.float32))
    torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.2]))
    assert merged.get('flip') is None


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_boxes_are_flipped_as_in_mmdet(detector, direction):
    bbox_flip = pytest.importorskip('mmdet.structures.bbox').bbox_flip
    true = [(10, 4, 30, 9), (40, 0, 44, 20)]
    view = boxes_of_views((20, 50), true)[0]
    view.set_metainfo(dict(flip=True, flip_direction=direction))
    before = view.pred_instances.bboxes.clone()
    (merged,) = MemberTTA(detector()).merge_preds([[view]])
    torch.testing.assert_close(merged.pred_instances.bboxes, bbox_flip(before, (20, 50), direction))


def two_detectors(detector):
    members = dict(a=detector(), b=detector(seed=1))
    config = dict(type='mmkdml.KnowledgeDistiller', members=members, transfers=[])
    return MODELS.build(dict(config, input_size=(64, 64))).eval()


def test_boxes_of_each_member_and_the_ensemble(detector):
    model = two_detectors(detector)
    true = {'a': [(10, 4, 30, 9), (40, 0, 44, 20)], 'b': [(1, 1, 9, 9), (40, 0, 44, 20)]}
    views = boxes_of_views((20, 50), true['a'])
    for view, other in zip(views, boxes_of_views((20, 50), true['b']), strict=True):
        view.members = BaseDataElement(a=view.clone(), b=other)
        view.pred_instances = InstanceData()
    (merged,) = MemberTTA(model).merge_preds([views])
    for name, boxes in true.items():
        found = merged.members.get(name).pred_instances
        torch.testing.assert_close(found.bboxes, torch.tensor(boxes, dtype=torch.float32))
        torch.testing.assert_close(found.scores, torch.tensor([0.6, 0.2]))
    # The students agree on one box; the score of others is halved.
    scores = merged.pred_instances.scores.tolist()
    assert scores == [pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.2)]
    assert merged.pred_instances.bboxes[2].tolist() == [40, 0, 44, 20]


def test_stock_class_of_mmdet_is_refused_for_a_classroom(detector):
    from mmdet.models import DetTTAModel

    model = two_detectors(detector)
    with pytest.raises(TypeError, match='DetTTAModel.*mmkdml.MemberTTA'):
        DetTTAModel(module=model)
    assert type(MemberTTA.of(model, dict(type=DetTTAModel))) is MemberTTA


def of_folds(build, sample_type):
    """Return the samples of three models, of their ensemble, and with augmented views."""
    models = []
    for seed in range(3):
        models.append(build())
        torch.manual_seed(seed)
        for parameter in models[-1].parameters():
            parameter.data += 0.1 * parameter.detach().std(correction=0) * torch.randn(())
    both = FoldEnsemble(models)
    with torch.no_grad():
        each = [model.test_step(views(sample_type)[0]) for model in models]
        batches = views(sample_type)
        data = {key: [batch[key] for batch in batches] for key in batches[0]}
        augmented = MemberTTA.of(both).test_step(copy.deepcopy(data))
        each_augmented = [MemberTTA(model).test_step(copy.deepcopy(data)) for model in models]
        return [(both.test_step(views(sample_type)[0]), each), (augmented, each_augmented)]


@pytest.mark.parametrize('build', [lambda: classroom('kdml_v3_demo'), with_two_logits])
def test_mean_masks_of_folds(build):
    def probabilities(sample):
        logits = sample.seg_logits.data
        return logits if len(logits) == 1 else logits.softmax(dim=0)

    for samples, each in of_folds(build, SegDataSample):
        for index, sample in enumerate(samples):
            for name in ('teacher', 'student_2'):
                parts = [probabilities(fold[index].members.get(name)) for fold in each]
                found = probabilities(sample.members.get(name))
                torch.testing.assert_close(found, torch.stack(parts).mean(0))
                assert not torch.equal(parts[0], parts[1])
            # The scores of an ensemble are averaged as they are.
            scores = torch.stack([fold[index].seg_logits.data for fold in each]).mean(0)
            torch.testing.assert_close(sample.seg_logits.data, scores)
            label = scores > 0.5 if len(scores) == 1 else scores.argmax(0, keepdim=True)
            assert sample.pred_sem_seg.data.equal(label.long())
            assert sample.pred_sem_seg.shape == (40, 48)


def test_mean_classes_of_folds():
    for samples, each in of_folds(lambda: classroom('kdml_v3_demo_slices'), DataSample):
        for index, sample in enumerate(samples):
            for get in (lambda one: one, lambda one: one.members.get('student_1')):
                scores = torch.stack([get(fold[index]).pred_score for fold in each]).mean(0)
                torch.testing.assert_close(get(sample).pred_score, scores)
                assert get(sample).pred_label.tolist() == [int(scores.argmax())]
