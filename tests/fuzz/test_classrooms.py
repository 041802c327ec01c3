import copy

from hypothesis import example, given
from hypothesis import strategies as st
from mmpretrain.models import (
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    ResNet,
)
from torch import nn

from mmkdml.models import DiversifiedKDMLDistiller, KnowledgeDistiller

NETWORK = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18, base_channels=2, stem_channels=2),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=3, in_channels=16, loss=dict(type=CrossEntropyLoss)),
)
WEIGHTS = dict(alpha=(0.2, 0.2), beta=(0.4, 0.4), gamma=(0.4, 0.4))
PAPER = dict(
    mode='kdml', style='v3', teacher=NETWORK, students=[NETWORK, NETWORK], weights=WEIGHTS,
    input_size=(32, 32),
)  # fmt: skip
TRANSFER = dict(source='a', learner='b', knowledge='features', weight=1.0)
CUSTOM = dict(members=dict(a=NETWORK, b=NETWORK), transfers=[TRANSFER], input_size=(32, 32))

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 3),
    st.floats(),
    st.sampled_from(
        ['kdml', 'kd_off', 'ml', 'v1', 'v9', 'a', 'b', 'teacher', 'student_1', 'max', 'union',
         'features', 'predictions', 'backbone', 'backbone.layer1', 'head', '..', '', 10**400,
         'ConvProjector', 'InterpolateProjector', 'PredictionKLLoss', 'FeatureMSELoss', 'Nope',
         'learner||source', 'teacher->student_1', NETWORK, nn.Identity, nn.Linear]
    ),
    st.text(max_size=4),
)  # fmt: skip
KEYS = st.sampled_from(
    ['type', 'a', 'b', 'teacher', 'students', 'alpha', 'beta', 'gamma', 'features', 'predictions',
     'teacher->student_1', 'source', 'learner', 'knowledge', 'weight', 'loss', 'projector',
     'source_tap', 'learner_tap', 'side', 'temperature']
) | st.none() | st.integers()  # fmt: skip
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=5,
)
CHANGES = st.dictionaries(
    st.sampled_from(
        [*PAPER, 'teacher_checkpoint', 'temperature', 'kl_direction', 'kl_scale', 'losses', 'taps',
         'projectors', 'ensemble', 'data_preprocessor', 'init_cfg']
    ),
    VALUES, min_size=1, max_size=2,
)  # fmt: skip
CUSTOM_CHANGES = st.dictionaries(
    st.sampled_from(
        [*CUSTOM, 'supervised_weights', 'frozen', 'students', 'reused_classifiers', 'ensemble']
    ),
    VALUES, min_size=1, max_size=2,
)  # fmt: skip


def build(attempt, kind, settings, changes):
    attempt(lambda: kind(**copy.deepcopy({**settings, **changes})))


@given(changes=CHANGES)
@example(changes=dict(students=None))
@example(changes=dict(students=[3, NETWORK]))
@example(changes=dict(teacher=dict(type='Nope')))
@example(changes=dict(teacher=dict(NETWORK, colour='red')))
@example(changes=dict(weights=dict(WEIGHTS, alpha=(10**400, 1))))
@example(changes=dict(temperature='warm'))
@example(changes=dict(losses=3))
@example(changes=dict(losses=dict(features=3)))
@example(changes=dict(losses=dict(features=dict(type='Nope'))))
@example(changes=dict(losses=dict(features=dict(type='FeatureMSELoss', colour='red'))))
@example(changes=dict(projectors=dict(type=3)))
@example(changes=dict(projectors=dict(type='Nope')))
@example(changes=dict(projectors=3))
@example(changes=dict(taps=3))
@example(changes=dict(ensemble=3))
@example(changes=dict(input_size=3))
@example(changes=dict(input_size=(0, 0)))
@example(changes=dict(input_size=('a', 'b')))
@example(changes=dict(data_preprocessor=3))
@example(changes=dict(mode='kd_off', teacher_checkpoint=3))
def test_paper_classroom_with_any_settings(attempt, changes):
    build(attempt, DiversifiedKDMLDistiller, PAPER, changes)


@given(changes=CUSTOM_CHANGES)
@example(changes=dict(members=3))
@example(changes=dict(members=dict(a=3)))
@example(changes=dict(transfers=3))
@example(changes=dict(transfers=[3]))
@example(changes=dict(transfers=[dict(source='a')]))
@example(changes=dict(transfers=[dict(TRANSFER, colour='red')]))
@example(changes=dict(transfers=[dict(TRANSFER, projector=3)]))
@example(changes=dict(transfers=[dict(TRANSFER, loss=nn.Identity)]))
@example(changes=dict(transfers=[dict(TRANSFER, source_tap='head')]))
@example(changes=dict(supervised_weights=3))
@example(changes=dict(supervised_weights=dict(a='x')))
@example(changes=dict(frozen=3))
@example(changes=dict(frozen=dict(a=3)))
@example(changes=dict(students=3))
@example(changes=dict(students=[[]]))
@example(changes=dict(reused_classifiers=3))
def test_custom_classroom_with_any_settings(attempt, changes):
    build(attempt, KnowledgeDistiller, CUSTOM, changes)
