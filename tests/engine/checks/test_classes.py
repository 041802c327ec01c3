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
    ('then', 'moved'),
    [(('dog', 'cat', 'owl'), 'dog, cat'), (['emu', 'cat', 'owl'], 'cat'), (('owl',), 'owl')],
)
def test_classes_in_another_order_are_refused(then, moved):
    with pytest.raises(ValueError, match=rf'best\.pth was trained.*\({moved}\)') as refused:
        check_class_order(dataset(NAMES), trained(then), 'best.pth')
    assert str(tuple(then)) in str(refused.value)
    assert str(NAMES) in str(refused.value)


@pytest.mark.parametrize('names', [None, NAMES, [*NAMES]])
@pytest.mark.parametrize('then', [None, NAMES, [*NAMES]])
def test_equal_or_unknown_classes_pass(logged, names, then):
    check_class_order(dataset(names), trained(then), 'best.pth')
    check_class_order(SimpleNamespace(), trained(then), 'best.pth')
    check_class_order(dataset(names), dict(layer=torch.ones(1)), 'best.pth')
    check_class_order(dataset(names), dict(meta=None), 'best.pth')
    assert not logged


def test_other_names_are_reported(logged):
    check_class_order(dataset(NAMES), trained(('cat', 'dog', 'tern')), 'best.pth')
    assert "'tern'" in logged[0]
    assert "'owl'" in logged[0]


class Head(nn.Linear):
    def __init__(self, classes):
        super().__init__(1, classes)
        self.num_classes = classes


def runner(classes, names=NAMES, frozen=()):
    model = nn.ModuleDict(dict(members=nn.ModuleDict(dict(student=nn.Module()))))
    model['members']['student'].head = Head(classes)
    model.frozen_files = dict(frozen)
    loader = SimpleNamespace(dataset=dataset(names))
    return SimpleNamespace(model=model, train_dataloader=loader, test_dataloader=loader)


@pytest.mark.parametrize('when', ['before_train', 'before_test'])
def test_heads_need_an_output_for_each_class(logged, when):
    check = getattr(ClassesHook(), when)
    check(runner(3))
    check(runner(1, None))
    assert not logged
    check(runner(5))
    assert 'members.student.head.num_classes: expected 3' in logged[0]
    assert 'got 5' in logged[0]
    with pytest.raises(ValueError, match=r'members\.student\.head\.num_classes: expected 3.*got 2'):
        check(runner(2))


def test_a_teacher_that_learned_another_order_is_refused(tmp_path):
    path = tmp_path / 'teacher.pth'
    torch.save(trained(NAMES[::-1]), path)
    with pytest.raises(ValueError, match=rf'the frozen teacher in {path}.*cat'):
        ClassesHook().before_train(runner(3, frozen=dict(teacher=str(path)).items()))
    ClassesHook().before_train(runner(3, frozen={'teacher.backbone': str(path)}.items()))
    torch.save(trained(NAMES), path)
    ClassesHook().before_train(runner(3, frozen=dict(teacher=str(path)).items()))


def test_all_checks_are_registered():
    registered = []
    checks.register_checks(
        SimpleNamespace(register_hook=lambda hook, priority: registered.append(hook))
    )
    assert {type(one).__name__ for one in registered} == {
        name for name in checks.__all__ if name.endswith('Hook')
    }
