import re
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmkdml.engine import checks
from mmkdml.engine.checks import ClassesHook, check_class_order
from mmkdml.engine.checks import classes as own

NAMES = ('cat', 'dog', 'owl')


def trained(names):
    return dict(state_dict={}, meta=dict(dataset_meta=dict(classes=names)))


def dataset(names):
    return SimpleNamespace(metainfo=dict(classes=names))


@pytest.fixture
def logged(monkeypatch):
    lines = []
    monkeypatch.setattr(own, 'print_log', lambda text, *_, **__: lines.append(text))
    return lines


@pytest.mark.parametrize(
    ('recorded', 'moved'),
    [(('dog', 'cat', 'owl'), 'dog, cat'), (['emu', 'cat', 'owl'], 'cat'), (('owl',), 'owl')],
)
def test_different_class_order_raises(recorded, moved):
    message = (
        rf'{re.escape(str(tuple(recorded)))}.*best\.pth.*{re.escape(str(NAMES))}.*of {moved}\.'
    )
    with pytest.raises(ValueError, match=message):
        check_class_order(dataset(NAMES), trained(recorded), 'best.pth')


@pytest.mark.parametrize('names', [None, NAMES, [*NAMES]])
@pytest.mark.parametrize('recorded', [None, NAMES, [*NAMES]])
def test_equal_or_unknown_classes_pass(logged, names, recorded):
    check_class_order(dataset(names), trained(recorded), 'best.pth')
    check_class_order(SimpleNamespace(), trained(recorded), 'best.pth')
    check_class_order(dataset(names), dict(layer=torch.ones(1)), 'best.pth')
    check_class_order(dataset(names), dict(meta=None), 'best.pth')
    assert not logged


def test_different_class_names_are_logged(logged):
    check_class_order(dataset(NAMES), trained(('cat', 'dog', 'tern')), 'best.pth')
    assert "'tern'" in logged[0]
    assert "'owl'" in logged[0]


class Head(nn.Linear):
    def __init__(self, classes):
        super().__init__(1, classes)
        self.num_classes = classes


def runner(classes, names=NAMES, teacher=None):
    model = nn.ModuleDict(dict(members=nn.ModuleDict(dict(student=nn.Module()))))
    model['members']['student'].head = Head(classes)
    model.frozen_files, model.frozen_classes = dict(teacher='best.pth'), dict(teacher=teacher)
    loader = SimpleNamespace(dataset=dataset(names))
    return SimpleNamespace(model=model, train_dataloader=loader, test_dataloader=loader)


@pytest.mark.parametrize('when', ['before_train', 'before_test'])
def test_head_with_too_few_classes_raises_and_with_extra_ones_warns(logged, when):
    check = getattr(ClassesHook(), when)
    check(runner(3))
    check(runner(1, None))
    assert not logged
    check(runner(5))
    assert 'members.student.head.num_classes: expected 3' in logged[0]
    assert 'got 5' in logged[0]
    with pytest.raises(
        ValueError, match=r'student\.head\.num_classes: expected 3.*got 2.*owl \(2\)'
    ):
        check(runner(2))


@pytest.mark.parametrize('number', [2, 4])
def test_heads_of_detectors_have_the_classes_of_the_data(number):
    model = nn.Sequential()
    model.bbox_head = Head(number)
    runner = SimpleNamespace(model=model, test_dataloader=SimpleNamespace(dataset=dataset(NAMES)))
    with pytest.raises(ValueError, match=rf'bbox_head.*expected 3.*got {number}'):
        ClassesHook().before_test(runner)


def test_frozen_teacher_with_different_class_order_raises():
    with pytest.raises(ValueError, match=r'the frozen teacher in best\.pth.*cat'):
        ClassesHook().before_train(runner(3, teacher=NAMES[::-1]))
    for classes in (NAMES, None):
        ClassesHook().before_train(runner(3, teacher=classes))


def test_all_checks_are_registered():
    registered = []
    checks.register_checks(
        SimpleNamespace(register_hook=lambda hook, priority: registered.append(hook))
    )
    assert {type(one).__name__ for one in registered} == {
        name for name in checks.__all__ if name.endswith('Hook')
    }


class MultiLabelClsHead(Head):
    """Has the name of mmpretrain's class."""


class OwnHead(MultiLabelClsHead):
    pass


def runner_with(head, **meta):
    data = SimpleNamespace(metainfo=dict(classes=NAMES, **meta))
    loader = SimpleNamespace(dataset=data)
    return SimpleNamespace(
        model=nn.ModuleDict(dict(head=head)), train_dataloader=loader, test_dataloader=loader
    )


@pytest.mark.parametrize('stage', ['before_train', 'before_test'])
def test_several_labels_need_multi_label_heads(stage):
    check = getattr(ClassesHook(), stage)
    check(runner_with(OwnHead(3), multi_label=True))
    check(runner_with(OwnHead(3)))  # a single label is a special case
    check(runner_with(Head(3)))
    with pytest.raises(
        ValueError, match='head: .*SimpleNamespace .*got Head. Use MultiLabelLinear'
    ):
        check(runner_with(Head(3), multi_label=True))


def test_layers_named_head_inside_of_backbones_and_heads_are_not_checked():
    head = OwnHead(3)
    head.csra_heads = nn.ModuleList([nn.ModuleDict(dict(head=nn.Conv2d(4, 3, 1)))])
    head.csra_heads[0].head = head.csra_heads[0]['head']
    runner = runner_with(head, multi_label=True)
    network = dict(backbone=nn.ModuleDict(dict(head=nn.Identity())), head=head)
    members = nn.ModuleDict(dict(student_1=nn.ModuleDict(network)))
    runner.model = nn.ModuleDict(dict(members=members))
    ClassesHook().before_train(runner)
    network['head'] = Head(3)
    members['student_1'] = nn.ModuleDict(network)
    with pytest.raises(ValueError, match='members.student_1.head: .*got Head'):
        ClassesHook().before_train(runner)


def test_several_labels_need_losses_with_a_sigmoid():
    head = OwnHead(3)
    for sigmoid in (True, False):
        head.loss_module = nn.Identity()
        head.loss_module.use_sigmoid = sigmoid
        if sigmoid:
            ClassesHook().before_train(runner_with(head, multi_label=True))
    with pytest.raises(ValueError, match='head: .*got Identity with use_sigmoid=False'):
        ClassesHook().before_train(runner_with(head, multi_label=True))


def test_number_of_classes_of_residual_attention():
    head = MultiLabelClsHead(3)
    del head.num_classes
    head.csra_heads = nn.ModuleList([nn.ModuleDict(dict(head=nn.Conv2d(4, 2, 1)))])
    head.csra_heads[0].head = head.csra_heads[0]['head']
    with pytest.raises(ValueError, match=r'head.num_classes: expected 3 .*got 2, .*owl \(2\)'):
        ClassesHook().before_test(runner_with(head))
