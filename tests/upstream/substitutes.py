"""Plugin of pytest that runs the tests of MMPretrain and MMSegmentation with classes of mmkdml.

Loss, prediction, metrics, test-time augmentation and layer-wise decay of one network go through a
classroom with this network as its only member, so that the tests check the classroom.
"""

import copy
import functools
import math

import mmpretrain.engine
import mmpretrain.evaluation
import mmseg.engine.optimizers.layer_decay_optimizer_constructor as mmseg_decay
import mmseg.evaluation
import torch
from mmpretrain.models import ClsHead, ImageClassifier
from mmpretrain.registry import METRICS as CLS_METRICS
from mmpretrain.registry import MODELS as CLS_MODELS
from mmpretrain.registry import OPTIM_WRAPPER_CONSTRUCTORS as CLS_CONSTRUCTORS
from mmseg.models import EncoderDecoder
from mmseg.registry import METRICS as SEG_METRICS
from mmseg.registry import MODELS as SEG_MODELS
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS as SEG_CONSTRUCTORS
from torch import nn

from mmkdml.engine import MemberOptimWrapperConstructor
from mmkdml.evaluation import MemberMetrics
from mmkdml.models import KnowledgeDistiller, MemberTTA

USED = {}  # number of calls by substitute


def used(name):
    USED[name] = USED.get(name, 0) + 1


def pytest_terminal_summary(terminalreporter):
    for name, number in sorted(USED.items()):
        terminalreporter.write_line(f'substitute {name} {number}')


def once(function):
    """Call the original inside of a substitute, which calls the method again."""

    def decorate(original):
        @functools.wraps(original)
        def call(self, *args, **kwargs):
            if self.__dict__.get('_substituted'):
                return original(self, *args, **kwargs)
            self.__dict__['_substituted'] = True
            try:
                return function(original, self, *args, **kwargs)
            finally:
                del self.__dict__['_substituted']

        return call

    return decorate


def room_of(network):
    """Return a classroom in the mode of its only member, which stays as it is."""
    room = KnowledgeDistiller(members=dict(a=network), transfers=[])
    return room.train(network.training)


def renamed(losses):
    assert all(key.startswith('a.') for key in losses)
    return {key.removeprefix('a.'): value for key, value in losses.items()}


@once
def network_loss(original, self, inputs, data_samples=None):
    used(f'{type(self).__name__}.loss')
    return renamed(room_of(self)(inputs, data_samples, mode='loss'))


@once
def network_predict(original, self, inputs, data_samples=None, **kwargs):
    if kwargs:
        return original(self, inputs, data_samples, **kwargs)
    used(f'{type(self).__name__}.predict')
    (*samples,) = room_of(self)(inputs, data_samples, mode='predict')
    for sample in samples:
        member = sample.pop('members').a
        label = 'pred_label' if 'pred_label' in sample else 'pred_sem_seg'
        same = [one.get(label) for one in (sample, member)]
        assert torch.equal(*(getattr(one, 'data', one) for one in same))
    return samples


class Feed(nn.Module):
    """Backbone that returns features that were computed before."""

    def __init__(self, features):
        super().__init__()
        self.features = features
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, _):
        return self.features


@once
def head_loss(original, self, feats, data_samples, **kwargs):
    if kwargs or 'loss' in self.__dict__:  # wrapped by MultiTaskHead for its own samples
        return original(self, feats, data_samples, **kwargs)
    used(f'{type(self).__name__}.loss')
    network = ImageClassifier(backbone=nn.Identity(), head=nn.Identity())
    network.backbone, network.head = Feed(feats), self
    network.__dict__['_substituted'] = True  # its loss is called by the classroom
    return renamed(room_of(network).loss(torch.zeros(len(data_samples), 3, 1, 1), data_samples))


def through_members(metric):
    """Return a metric whose samples are evaluated as those of a member and of an ensemble."""

    class Through(metric):
        def process(self, data_batch, data_samples):
            used(metric.__name__)
            if '_outer' not in self.__dict__:
                plain = copy.copy(self)
                plain.__class__ = metric
                self._outer = MemberMetrics(plain)
                self._outer.dataset_meta = self.dataset_meta
            parts = [
                {key: one[key] for key in one if key.startswith(('pred_', 'seg_logits'))}
                for one in data_samples
            ]
            members = [
                {**one, 'members': dict(a=part)}
                for one, part in zip(data_samples, parts, strict=True)
            ]
            self._outer.process(data_batch, members)

        def evaluate(self, size):
            found = self._outer.evaluate(size)
            both = [
                {key.removeprefix(f'{name}/'): found[key] for key in found if key.startswith(name)}
                for name in ('a', 'ensemble')
            ]
            assert both[0].keys() == both[1].keys()
            assert all(equal(one, both[1][key]) for key, one in both[0].items())
            return both[0]

    Through.__name__ = metric.__name__
    return Through


def equal(one, other):
    if isinstance(one, float) and math.isnan(one):
        return math.isnan(other)
    return str(one) == str(other)


def by_member(constructor):
    """Return a constructor that builds the groups of a member of a classroom."""

    class ByMember(constructor):
        def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
            own = dict(constructor=constructor, paramwise_cfg=copy.deepcopy(paramwise_cfg or {}))
            self.outer = MemberOptimWrapperConstructor(dict(optim_wrapper_cfg, members=dict(a=own)))

        def __call__(self, model):
            used(constructor.__name__)
            room = nn.Module()
            room.members = nn.ModuleDict(dict(a=getattr(model, 'module', model)))
            try:
                return self.outer(room)
            except ValueError as error:  # the tests expect the error of the stock constructor
                raise (error.__cause__ or error) from None

    ByMember.__name__ = constructor.__name__
    return ByMember


class Tta(MemberTTA):
    def merge_preds(self, data_samples_list):
        used('MemberTTA')
        return super().merge_preds(data_samples_list)


def replace(registry, name, new, *modules):
    registry.module_dict[name] = new
    for module in modules:
        setattr(module, name, new)


def pytest_configure():
    for kind in (ImageClassifier, EncoderDecoder):
        kind.loss = network_loss(kind.loss)
        kind.predict = network_predict(kind.predict)
    ClsHead.loss = head_loss(ClsHead.loss)
    for name in ('Accuracy', 'SingleLabelMetric', 'MultiLabelMetric', 'AveragePrecision'):
        new = through_members(getattr(mmpretrain.evaluation, name))
        replace(CLS_METRICS, name, new, mmpretrain.evaluation)
    replace(SEG_METRICS, 'IoUMetric', through_members(mmseg.evaluation.IoUMetric), mmseg.evaluation)
    replace(CLS_MODELS, 'AverageClsScoreTTA', Tta)
    replace(SEG_MODELS, 'SegTTAModel', Tta)
    name = 'LearningRateDecayOptimizerConstructor'
    replace(SEG_CONSTRUCTORS, name, by_member(getattr(mmseg_decay, name)), mmseg_decay)
    name = 'LearningRateDecayOptimWrapperConstructor'
    new = by_member(CLS_CONSTRUCTORS.module_dict[name])
    replace(CLS_CONSTRUCTORS, name, new, mmpretrain.engine)
