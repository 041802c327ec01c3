from pathlib import Path

import pytest
import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmpretrain.models import ClsDataPreprocessor, ImageClassifier
from torch import nn

from mmkdml.inspection import MemberComplexity, compression, describe, inspect_config
from mmkdml.inspection.complexity import count_parameters, member_complexities
from mmkdml.inspection.config import inspect_model
from mmkdml.models import KnowledgeDistiller
from mmkdml.packages import packaged_file

CONFIGS = Path(__file__).parents[2] / 'configs'


def size(parameters, name='student'):
    return MemberComplexity(name, '', parameters, 1, True)


@pytest.fixture(scope='module')
def paper():
    """Two ResNet18 and a frozen ResNet50 whose checkpoint is missing."""
    return inspect_config(Config.fromfile(CONFIGS / 'kd_off' / 'r50_r18x2_v3_pcam.py'))


def lines_with(text, *words):
    return [line for line in text.splitlines() if all(word in line for word in words)]


def test_compression():
    assert compression([size(30), size(20)], size(200)) == 0.75
    assert compression([size(150), size(150)], size(200)) == -0.5


def test_sizes_match_published_ones(paper):
    teacher, student, _ = member_complexities(paper)
    # torchvision lists 4.09 and 1.81 GFLOPS (multiply-adds) with 1000 classes. The 1x1 convolution
    # of the block adds 2048 * 512 * 7 * 7; two classes instead of 1000 hardly matter.
    block = 2048 * 512 * 49
    assert teacher.multiply_adds == pytest.approx(4.09e9 + block, rel=0.005)
    assert student.multiply_adds == pytest.approx(1.81e9, rel=0.005)
    # 11,689,512 of torchvision's ResNet18 with a classifier of 512 * 1000 + 1000.
    assert student.parameters == 11_689_512 - 513_000 + 512 * 2 + 2
    assert (teacher.trained, student.trained) == (False, True)
    assert teacher.network == 'ResNet(50) + ConvBlockNeck + LinearClsHead'


def test_multiply_adds_match_mmengine_up_to_norms_and_pooling(paper):
    student = paper.members['student_1']
    counted = get_model_complexity_info(student, (3, 224, 224), show_table=False, show_arch=False)
    assert member_complexities(paper)[1].multiply_adds == pytest.approx(counted['flops'], rel=0.01)
    # mmengine counts a multiply-add as one, too.
    conv = nn.Conv2d(3, 4, 3, bias=False)
    counted = get_model_complexity_info(conv, (3, 8, 8), show_table=False, show_arch=False)
    assert counted['flops'] == 3 * 4 * 9 * 6 * 6


def test_counting_does_not_change_the_members(paper):
    student = paper.members['student_1'].train()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    member_complexities(paper)
    assert student.training
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


def test_describe_offline_distillation(paper):
    text = describe(paper)
    assert 'Frozen teacher: work_dirs/baselines/r50_pcam (MISSING: train it first)' in text
    (row,) = lines_with(text, '| teacher -> student_2', 'features')
    assert 'neck.conv_block 512x7x7' in row
    assert 'backbone 512x7x7' in row
    (row,) = lines_with(text, '| teacher -> student_1', 'predictions')
    assert row.count('logits 2 ') == 2
    assert 'PredictionKLLoss' in row
    assert 'Ensemble: max of student_1, student_2' in text
    teacher, student, _ = (count_parameters(member) for member in paper.members.values())
    assert f'Compared with teacher: {1 - 2 * student / teacher:.1%} fewer parameters' in text
    assert lines_with(text, '| teacher', 'frozen')
    assert 'student_1 0.2, student_2 0.2' in text.split('supervised losses:')[1].splitlines()[0]


def test_existing_checkpoint_is_not_missing(tmp_path):
    config = Config.fromfile(CONFIGS / 'kd_off' / 'r50_r18x2_v3_pcam.py')
    config.model.teacher_checkpoint = str(tmp_path)
    assert f'Frozen teacher: {tmp_path}\n' in describe(inspect_config(config))


def test_describe_baseline(paper):
    config = Config(
        dict(
            model=dict(
                type=ImageClassifier,
                backbone=dict(type='mmpretrain.MobileNetV2', widen_factor=0.25),
                data_preprocessor=dict(type=ClsDataPreprocessor),
                neck=dict(type='mmpretrain.GlobalAveragePooling'),
                head=dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=1280),
            )
        )
    )
    text = describe(inspect_config(config))
    assert lines_with(text, '| model', 'MobileNetV2 + GlobalAveragePooling + Linear', 'trained')
    assert 'Transfers' not in text
    assert 'Ensemble' not in text


def test_describe_projector_zero_weight_and_larger_student(classroom):
    text = describe(classroom)
    (row,) = lines_with(text, '| small -> large', 'features')
    # A 1x1 convolution from 32 to 16 channels and a batch norm of 16 channels.
    assert f'ConvProjector of the learner, {(32 * 16 + 2 * 16) / 1e6:.3f} M parameters' in row
    assert 'backbone 16x' in row  # before the projector
    assert 'backbone 32x' in row
    (row,) = lines_with(text, '| small -> large', 'predictions')
    assert 'not computed' in row
    assert 'MORE parameters' in text


def test_describe_classroom_without_teacher(classroom):
    classroom.distiller.student_names = ('small', 'large')
    try:
        assert describe(classroom).endswith('No teacher to compare with')
    finally:
        classroom.distiller.student_names = ('large',)


@pytest.fixture(scope='module')
def classroom():
    """Classroom in which a small network teaches a larger one."""

    def network(channels):
        return dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(
                type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=channels // 8
            ),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=channels),
        )

    inspection = inspect_config(
        Config(
            dict(
                model=dict(
                    type=KnowledgeDistiller,
                    members=dict(small=network(16), large=network(32)),
                    transfers=[
                        dict(
                            source='small',
                            learner='large',
                            knowledge='features',
                            weight=1.0,
                            projector=dict(type='mmkdml.ConvProjector'),
                        ),
                        dict(source='small', learner='large', knowledge='predictions', weight=0.0),
                    ],
                    input_size=(64, 64),
                )
            )
        )
    )
    assert inspection.input_size == (64, 64)
    return inspection


def test_schedules_and_learned_weights_are_described():
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    first = dict(type='LinearWeight', start_factor=0.0, end=3)
    second = dict(type='MultiStepWeight', milestones=[5], gamma=0.0)
    config.model.weight_schedules = dict(beta=dict(student_1=[first, second]))
    text = describe(inspect_config(config))
    assert len(lines_with(text, '* LinearWeight(start_factor=0.0, end=3)')) == 1
    assert len(lines_with(text, '* MultiStepWeight(milestones=[5], gamma=0.0)')) == 1
    assert 'Learned' not in text
    del config.model['weight_schedules']
    config.model.learned_weights = dict(type='GradNorm')
    assert 'Learned factors of the weights: GradNorm' in describe(inspect_config(config))


def test_detectors_whose_head_is_not_counted(detector):
    two_stages = Config.fromfile(
        packaged_file('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    ).model
    two_stages.backbone.update(depth=18, base_channels=8, stem_channels=8, init_cfg=None)
    two_stages.neck.update(in_channels=[8, 16, 32, 64])
    # Only a ConfigDict has the attributes that its heads read.
    inspection = inspect_config(Config(dict(model=two_stages, default_scope='mmdet')))
    text = describe(inspection)
    assert 'ResNet(18) + FPN + RPNHead + StandardRoIHead' in text
    assert text.endswith('GMACs without the head, which is not run: model')
    (size,) = member_complexities(inspection)
    assert not size.has_head
    one_stage = describe(inspect_model(detector('atss')))
    assert 'ResNet(18) + FPN + ATSSHead' in one_stage
    assert 'without the head' not in one_stage
