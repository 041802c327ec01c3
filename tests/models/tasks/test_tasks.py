import re
from functools import partial

import pytest
from mmengine import ConfigDict
from mmpretrain.models import ImageClassifier, MultiLabelLinearClsHead, ResNet
from mmseg.models import EncoderDecoder
from torch import nn

from mmkdml.models import StemResNet, UNetHead
from mmkdml.models.ensembles import max_ensemble, mean_ensemble, union_ensemble, vote_ensemble
from mmkdml.models.tasks import TASKS, ClassificationTask, MultiLabelTask, SegmentationTask, task_of


def classifier(**parts):
    backbone = dict(type=ResNet, depth=18, base_channels=4, stem_channels=4)
    return ImageClassifier(backbone=backbone, **parts)


def multi_label_classifier():
    return classifier(head=dict(type=MultiLabelLinearClsHead, num_classes=3, in_channels=32))


def segmentor():
    return EncoderDecoder(
        backbone=dict(type=StemResNet, depth=18, base_channels=4, stem_channels=4),
        decode_head=dict(
            type=UNetHead,
            in_channels=(4, 4, 8, 16, 32),
            widths=(4, 4, 4, 4, 4),
            num_classes=2,
            out_channels=1,
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


class OwnClassifier(ImageClassifier):
    pass


def test_task_of_classifiers():
    own = OwnClassifier(backbone=classifier().backbone)
    assert isinstance(task_of(dict(a=classifier(), b=own)), ClassificationTask)


def test_task_of_multi_label_classifiers():
    members = dict(a=multi_label_classifier(), b=multi_label_classifier())
    assert isinstance(task_of(members), MultiLabelTask)


def test_heads_of_two_kinds_raise():
    members = dict(teacher=classifier(), student=multi_label_classifier())
    with pytest.raises(TypeError, match='teacher: NoneType, student: MultiLabelLinearClsHead'):
        task_of(members)


def test_task_of_segmentors():
    assert isinstance(task_of(dict(a=segmentor(), b=segmentor())), SegmentationTask)


@pytest.mark.parametrize('make_other', [segmentor, lambda: nn.Conv2d(3, 2, 1)])
def test_members_of_two_tasks_raise(make_other):
    members = dict(teacher=classifier(), student=make_other())
    kind = type(members['student']).__name__
    with pytest.raises(
        TypeError,
        match=(
            'members must all be instances of one of ImageClassifier, TimmClassifier, '
            'EncoderDecoder, BaseDetector; got '
            f'teacher: ImageClassifier, student: {kind}$'
        ),
    ):
        task_of(members)


def test_unknown_framework_raises():
    with pytest.raises(TypeError, match=re.escape('got only: Linear')):
        task_of(dict(only=nn.Linear(1, 1)))


@pytest.mark.parametrize('task', TASKS, ids=lambda task: type(task).__name__)
def test_ensembles_of_a_task(task):
    expected = dict(max=max_ensemble, mean=mean_ensemble, vote=vote_ensemble)
    if task.name == 'segmentation':
        expected['union'] = union_ensemble
    assert task.ensembles == expected
    assert task.default_ensemble in task.ensembles


def test_name_of_an_ensemble():
    def weighted(probabilities, threshold):
        pass

    task = ClassificationTask()
    assert task.name_of(mean_ensemble) == 'mean'
    assert task.name_of(weighted) == 'weighted'
    assert task.name_of(partial(weighted, threshold=0.5)) == 'custom function'


def test_defaults_of_the_paper():
    defaults = {task.name: (task.default_input_size, task.default_ensemble) for task in TASKS}
    assert len(TASKS) == 3  # both kinds of classification have the same defaults
    assert defaults == {
        'classification': ((224, 224), 'max'),
        'segmentation': ((256, 256), 'union'),
    }
