import copy

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.models import MobileNetV2, StackedLinearClsHead, TIMMBackbone
from mmpretrain.visualization import UniversalVisualizer
from mmseg.visualization import SegLocalVisualizer
from scipy.ndimage import maximum_filter, minimum_filter
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper
from mmkdml.models import BinaryLinearClsHead, KnowledgeDistiller, Transfer


def count_forwards(module, counts, name):
    forward = module.forward

    def counted(*args, **kwargs):
        counts[name] = counts.get(name, 0) + 1
        return forward(*args, **kwargs)

    module.forward = counted


def test_three_students_two_teachers_and_a_chain(task, tiny):
    distiller = KnowledgeDistiller(
        members=dict(
            first=task.teacher(),
            second=task.teacher(),
            a=task.student(),
            b=task.student(),
            c=task.student(),
        ),
        transfers=[
            Transfer('first', 'a', 'features', 0.5),
            Transfer('second', 'a', 'predictions', 0.5),
            dict(source='a', learner='b', knowledge='predictions', weight=1.0),
            Transfer('b', 'c', 'features', 1.0),
            Transfer('b', 'c', 'predictions', 1.0),
        ],
        frozen=dict(second=None),
        input_size=(32, 32),
    )
    assert distiller.student_names == ('a', 'b', 'c')
    inputs, samples = task.batch()
    distiller(inputs, samples, mode='loss')  # follows the data through the frozen member
    counts = {}
    for name, member in distiller.named_members().items():
        count_forwards(member.backbone, counts, name)
    losses = distiller(inputs, samples, mode='loss')
    assert counts == dict.fromkeys(['first', 'second', 'a', 'b', 'c'], 1)
    assert {key for key in losses if 'loss_from' in key} == {
        'a.loss_from_first.features',
        'a.loss_from_second.predictions',
        'b.loss_from_a.predictions',
        'c.loss_from_b.features',
        'c.loss_from_b.predictions',
    }
    assert not any(key.startswith('second.') for key in losses)
    tiny.optimized(losses).backward()
    assert all(p.grad is not None for p in distiller.parameters())
    prediction = distiller.eval()(inputs, samples, mode='predict')[0]
    assert set(prediction.members.keys()) == {'first', 'second', 'a', 'b', 'c'}


def test_two_taps_between_the_same_members_are_two_losses(tiny):
    distiller = KnowledgeDistiller(
        members=dict(t=tiny.classifier(), s=tiny.classifier()),
        transfers=[
            Transfer('t', 's', 'features', 1.0, source_tap=tap, learner_tap=tap)
            for tap in ('backbone.layer2', 'backbone.layer3')
        ],
        input_size=tiny.size,
    )
    losses = distiller(tiny.images(), tiny.class_samples(), mode='loss')
    assert {'s.loss_from_t.features', 's.loss_from_t.features_2'} <= set(losses)


def test_observed_modules_of_a_step(task, tiny):
    own, teachers, students = dict(
        classification=({'head'}, {'neck.conv_block'}, {'backbone'}),
        segmentation=(set(), {'decode_head.blocks.0'}, {'decode_head.blocks.0'}),
        detection=(set(), {'neck.fpn_convs.0'}, {'neck.fpn_convs.0'}),
    )[task.name]
    features = tiny.pair(task, [('predictions', 1.0), ('features', 1.0)])
    assert features.observed_modules == dict(teacher=own | teachers, student=own | students)
    predictions = tiny.pair(task, [('predictions', 1.0)])
    assert predictions.observed_modules == dict(teacher=own, student=own)


def test_other_pair_of_classifiers(tiny):
    timm_teacher = dict(
        tiny.classifier(),
        neck=None,
        backbone=dict(
            type=TIMMBackbone, model_name='efficientnet_b0', features_only=True, out_indices=(4,)
        ),
        head=dict(type=StackedLinearClsHead, num_classes=3, in_channels=320, mid_channels=[16]),
    )
    timm_teacher['neck'] = tiny.classifier()['neck']
    student = tiny.classifier()
    student['backbone'] = dict(type=MobileNetV2, widen_factor=0.25)
    student['head']['in_channels'] = 1280
    distiller = KnowledgeDistiller(
        members=dict(teacher=timm_teacher, student=student),
        transfers=[
            Transfer('teacher', 'student', 'predictions', 1.0),
            Transfer('teacher', 'student', 'features', 1.0, projector=dict(type='ConvProjector')),
        ],
        input_size=tiny.size,
    )
    tiny.optimized(distiller(tiny.images(), tiny.class_samples(), mode='loss')).backward()
    assert [n for n, p in distiller.named_parameters() if p.grad is None] == []


def test_other_pair_of_segmentors(tiny):
    teacher, student = tiny.mmseg_pair()
    distiller = KnowledgeDistiller(
        members=dict(teacher=teacher, student=student),
        transfers=[
            Transfer('teacher', 'student', 'predictions', 1.0),
            Transfer('teacher', 'student', 'features', 1.0),
        ],
        input_size=tiny.size,
    )
    losses = distiller(tiny.images(), tiny.mask_samples(num_classes=3), mode='loss')
    assert {
        'student.decode.loss_ce',
        'student.aux_0.loss_ce',
        'student.aux_1.loss_ce',
        'teacher.decode.loss_ce',
        'student.loss_from_teacher.features',
        'student.loss_from_teacher.predictions',
    } == {k for k in losses if 'loss' in k}
    tiny.optimized(losses).backward()
    assert [n for n, p in distiller.named_parameters() if p.grad is None] == []


def test_one_logit_classification(tiny):
    member = tiny.classifier()
    member['head'] = dict(type=BinaryLinearClsHead, in_channels=32)
    distiller = KnowledgeDistiller(
        members=dict(a=member, b=member),
        transfers=[Transfer('a', 'b', 'predictions', 1.0)],
        students=['a', 'b'],
        input_size=tiny.size,
    )
    inputs, samples = tiny.images(), tiny.class_samples(num_classes=2)
    assert torch.isfinite(tiny.optimized(distiller(inputs, samples, mode='loss')))
    prediction = distiller.eval()(inputs, samples, mode='predict')[0]
    assert prediction.pred_score.shape == (2,)
    scores = torch.stack([prediction.members.a.pred_score, prediction.members.b.pred_score])
    assert torch.equal(prediction.pred_score, scores.amax(0))


@pytest.mark.parametrize('weight', [0.0, None], ids=['zero weights', 'no transfers'])
def test_training_without_transfers_equals_plain_training(task, weight, tiny):
    """Dropout shows that random numbers are equal, too."""
    config = task.student()
    if task.name == 'segmentation':
        config['decode_head']['dropout_ratio'] = 0.5
    plain = MODELS.build(config)
    plain.init_weights()
    batches = [(torch.randn_like(task.batch()[0]), task.batch()[1]) for _ in range(3)]
    members = dict(student=copy.deepcopy(plain))
    transfers = []
    if weight is not None:
        members['teacher'] = MODELS.build(task.teacher())
        transfers = [
            Transfer('teacher', 'student', kind, weight) for kind in ('predictions', 'features')
        ]
    distiller = KnowledgeDistiller(
        members=members,
        transfers=transfers,
        input_size=(32, 32),
        frozen=dict(teacher=None) if transfers else None,
    )
    distilled = tiny.train(distiller, copy.deepcopy(batches))
    expected = tiny.train(plain, batches)
    found = {key.removeprefix('members.student.'): value for key, value in distilled.items()}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_supervised_weights_scale_losses_only(tiny):
    distiller = KnowledgeDistiller(
        members=dict(a=tiny.segmentor(out_channels=3), b=tiny.segmentor(out_channels=3)),
        transfers=[],
        supervised_weights=dict(a=0.25),
        input_size=tiny.size,
    ).eval()
    distiller.members['b'].load_state_dict(distiller.members['a'].state_dict())
    losses = distiller(tiny.images(), tiny.mask_samples(num_classes=3), mode='loss')
    key = 'decode.loss_focal_dice'
    assert torch.equal(losses[f'a.{key}'], 0.25 * losses[f'b.{key}'])
    assert torch.equal(losses['a.decode.acc_seg'], losses['b.decode.acc_seg'])


def test_tap_modified_in_place_raises_at_build(tiny):
    def build(tap, frozen):
        return KnowledgeDistiller(
            members=dict(t=tiny.classifier(), s=tiny.classifier()),
            transfers=[Transfer('t', 's', 'features', 1.0, source_tap=tap, learner_tap=tap)],
            frozen=dict(t=None) if frozen else None,
            input_size=tiny.size,
        )

    for frozen in (False, True):
        with pytest.raises(ValueError, match="'backbone.bn1'.* modified in place"):
            build('backbone.bn1', frozen)
        build('backbone.maxpool', frozen)


def test_tap_modified_in_place_in_training_raises(tiny):
    class SpoilsInTraining(nn.Module):
        def forward(self, x):
            return x.mul_(2) if self.training else x

    member = MODELS.build(tiny.classifier())
    member.backbone.maxpool = nn.Sequential(SpoilsInTraining(), nn.MaxPool2d(3, 2, 1))
    distiller = KnowledgeDistiller(
        members=dict(t=tiny.classifier(), s=member),
        transfers=[
            Transfer(
                't', 's', 'features', 1.0, source_tap='backbone.relu', learner_tap='backbone.relu'
            )
        ],
        input_size=tiny.size,
    )
    with pytest.raises(ValueError, match="'backbone.relu'.* modified in place"):
        distiller.train()(tiny.images(), tiny.class_samples(), mode='loss')


def test_outputs_are_freed_after_the_step(task, tiny):
    distiller = tiny.pair(task, [('predictions', 1.0), ('features', 1.0)])
    inputs, samples = task.batch()
    losses = distiller(inputs, samples, mode='loss')
    hooks = [hook for module in distiller.modules() for hook in module._forward_hooks.values()]
    assert hooks == []
    del losses
    assert not any(
        isinstance(value, torch.Tensor)
        for module in distiller.modules()
        for value in vars(module).values()
    )


def test_validation_at_build_changes_nothing(task):
    members = dict(teacher=MODELS.build(task.teacher()), student=MODELS.build(task.student()))
    members['student'].backbone.layer1.eval()
    before = {name: copy.deepcopy(member.state_dict()) for name, member in members.items()}
    state = torch.get_rng_state()
    distiller = KnowledgeDistiller(
        members=members,
        transfers=[Transfer('teacher', 'student', 'features', 1.0)],
        input_size=(32, 32),
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(value, before[name][key])
        for name, member in members.items()
        for key, value in member.state_dict().items()
    )
    student = distiller.members['student']
    assert not student.backbone.layer1.training
    assert student.backbone.layer2.training


@pytest.mark.parametrize('task', ['classification', 'segmentation'], indirect=True)
def test_predictions_of_members_and_ensemble(task):
    distiller = KnowledgeDistiller(
        members=dict(teacher=task.teacher(), a=task.student(), b=task.student()),
        transfers=[
            Transfer('teacher', 'a', 'predictions', 1.0),
            Transfer('teacher', 'b', 'predictions', 1.0),
        ],
        input_size=(32, 32),
    ).eval()
    inputs, samples = task.batch()
    truth = copy.deepcopy(samples)
    predicted = distiller(inputs, samples, mode='predict')
    for index, prediction in enumerate(predicted):
        assert type(prediction) is type(truth[0])
        assert isinstance(prediction.members, BaseDataElement)
        separate = {
            name: member.predict(inputs)[index]
            for name, member in distiller.named_members().items()
        }
        for name, expected in separate.items():
            found = getattr(prediction.members, name)
            assert 'gt_label' not in found
            assert 'gt_sem_seg' not in found
            if task.name == 'classification':
                assert torch.equal(found.pred_score, expected.pred_score)
            else:
                assert torch.equal(found.pred_sem_seg.data, expected.pred_sem_seg.data)
        if task.name == 'classification':
            best = torch.maximum(separate['a'].pred_score, separate['b'].pred_score)
            assert torch.equal(prediction.pred_score, best)
            assert prediction.pred_label.item() == best.argmax().item()
            assert torch.equal(prediction.gt_label, truth[index].gt_label)
        else:
            union = separate['a'].pred_sem_seg.data.bool() | separate['b'].pred_sem_seg.data.bool()
            assert torch.equal(prediction.pred_sem_seg.data.bool(), union)
            assert torch.equal(prediction.gt_sem_seg.data, truth[index].gt_sem_seg.data)


def test_prediction_without_samples_and_tensor_mode(task, tiny):
    distiller = tiny.pair(task, [('predictions', 1.0)]).eval()
    inputs, _ = task.batch(2)
    assert len(distiller(inputs, mode='predict')) == 2
    logits = distiller(inputs)
    assert list(logits) == ['teacher', 'student']
    student = distiller.members['student']
    expected = distiller.task.logits if task.name == 'detection' else type(student).__call__
    assert torch.equal(logits['student'], expected(student, inputs))
    with pytest.raises(ValueError, match='mode must be one of loss, predict, tensor'):
        distiller(inputs, mode='train')


@pytest.mark.parametrize('task', ['classification', 'segmentation'], indirect=True)
def test_visualizers_of_the_frameworks_draw_predictions(task, tmp_path):
    distiller = tiny_ensemble(task)
    inputs, samples = task.batch(2)
    prediction = distiller(inputs, samples, mode='predict')[0]
    image = np.zeros((32, 32, 3), np.uint8)
    if task.name == 'classification':
        drawn = UniversalVisualizer(name=str(tmp_path)).visualize_cls(
            image, prediction, classes=['a', 'b', 'c']
        )
    else:
        visualizer = SegLocalVisualizer(name=str(tmp_path), alpha=1.0)
        visualizer.dataset_meta = dict(
            classes=('background', 'tumour'), palette=[[0, 0, 0], [255, 0, 0]]
        )
        visualizer.add_datasample('x', image, prediction, draw_gt=False, with_labels=False)
        drawn = visualizer.get_image()
        mask = prediction.pred_sem_seg.data[0].bool().numpy()
        # Matplotlib 3.10 shifts images this small by a pixel.
        sure = maximum_filter(mask, 3) == minimum_filter(mask, 3)
        assert sure.sum() > 9
        assert np.array_equal(drawn[..., 0][sure] == 255, mask[sure])
    assert drawn.shape[:2] >= (32, 32)
    assert drawn.any()


def tiny_ensemble(task):
    return KnowledgeDistiller(
        members=dict(a=task.student(), b=task.student()), transfers=[], input_size=(32, 32)
    ).eval()


def test_images_of_different_original_sizes(tiny):
    distiller = KnowledgeDistiller(
        members=dict(a=tiny.segmentor(), b=tiny.segmentor()), transfers=[], input_size=tiny.size
    )
    samples = tiny.mask_samples(2)
    samples[1].set_metainfo(dict(ori_shape=(50, 40)))
    samples[1].gt_sem_seg = PixelData(data=torch.zeros(1, 50, 40))
    predicted = distiller.eval()(tiny.images(2), samples, mode='predict')
    assert [tuple(prediction.pred_sem_seg.data.shape) for prediction in predicted] == [
        (1, 32, 32),
        (1, 50, 40),
    ]


@pytest.mark.parametrize('task', ['classification', 'segmentation'], indirect=True)
def test_custom_ensemble(task, tiny):
    distiller = tiny.pair(
        task,
        [('predictions', 1.0)],
        ensemble=lambda p, threshold: (p[0], torch.zeros(p[0, :, 0].shape).long()),
    )
    prediction = distiller.eval()(*task.batch(), mode='predict')[0]
    label = prediction.pred_label if task.name == 'classification' else prediction.pred_sem_seg.data
    assert not label.any()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(members={}), 'at least one member'),
        (dict(members={'ensemble': None}), 'other than "ensemble"'),
        (dict(members={'a.b': None}), 'must be an identifier'),
        (dict(transfers=[Transfer('x', 'student', 'features', 1.0)]), 'must name members .*got x'),
        (dict(students=['pupil']), 'students must name members .*got pupil'),
        (dict(frozen=dict(pupil=None)), 'frozen must name members'),
        (dict(supervised_weights=dict(pupil=1.0)), 'supervised_weights must name members'),
        (dict(supervised_weights=dict(student=-1.0)), 'must be finite and at least 0'),
        (dict(supervised_weights=dict(student=float('nan'))), 'must be finite and at least 0'),
        (dict(ensemble='best'), 'ensemble must be one of (max|wbf)'),
        (
            dict(transfers=[Transfer('teacher', 'student', 'features', 1.0, source_tap='backbne')]),
            "Invalid tap 'backbne': .*but backbone",
        ),
    ],
)
def test_invalid_arguments_raise(task, change, message):
    kwargs = dict(
        members=dict(teacher=task.teacher(), student=task.student()),
        transfers=[],
        input_size=(32, 32),
    )
    with pytest.raises(ValueError, match=message):
        KnowledgeDistiller(**{**kwargs, **change})


def test_union_of_classifiers_raises(tiny):
    with pytest.raises(ValueError, match='ensemble must be one of max, mean, vote for classif'):
        KnowledgeDistiller(members=dict(a=tiny.classifier()), transfers=[], ensemble='union')


def test_module_as_two_members_raises(tiny):
    member = MODELS.build(tiny.classifier())
    with pytest.raises(ValueError, match='one and the same module'):
        KnowledgeDistiller(members=dict(a=member, b=member), transfers=[])


def test_members_of_two_tasks_raise(tiny):
    with pytest.raises(
        TypeError,
        match='ImageClassifier, TimmClassifier, EncoderDecoder, BaseDetector; got a: Image.*b: Enc',
    ):
        KnowledgeDistiller(members=dict(a=tiny.classifier(), b=tiny.segmentor()), transfers=[])


def test_bfloat16_on_a_cpu(task, tiny):
    distiller = tiny.pair(
        task, [('predictions', 1.0), ('features', 1.0)], frozen=dict(teacher=None)
    )
    wrapper = CPUAmpOptimWrapper(torch.optim.Adam(distiller.parameters(), lr=1e-3))
    dtypes = set()
    distiller.members['student'].backbone.layer1.register_forward_hook(
        lambda module, args, output: dtypes.add(output.dtype)
    )
    before = copy.deepcopy(distiller.state_dict())
    inputs, samples = task.batch()
    for _ in range(2):
        with wrapper.optim_context(distiller):
            losses = distiller(inputs, samples, mode='loss')
        assert torch.isfinite(tiny.optimized(losses))
        # mmdet computes the loss of its boxes in the precision of the network.
        own = 'loss_from' if task.name == 'detection' else 'loss'
        values = [value for key, value in losses.items() if own in key]
        assert all(v.dtype == torch.float32 for v in values)
        wrapper.update_params(distiller.parse_losses(losses)[0])
    assert dtypes == {torch.bfloat16}
    assert all(p.dtype == torch.float32 for p in distiller.parameters())
    key = 'members.student.backbone.conv1.weight'
    assert not torch.equal(before[key], distiller.state_dict()[key])
