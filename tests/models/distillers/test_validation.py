import re

import pytest

from mmkdml.models.distillers.validation import (
    check_known,
    check_names,
    check_reuse,
    check_roles,
    choose_ensemble,
)
from mmkdml.models.ensembles import max_ensemble, union_ensemble, vote_ensemble
from mmkdml.models.tasks import ClassificationTask, SegmentationTask
from mmkdml.models.transfers import Transfer

MEMBERS = ('teacher', 'a', 'b')


def test_valid_names():
    check_names(['teacher', 'student_1', 'ä'])


@pytest.mark.parametrize('name', ['ensemble', 'a.b', '1a', '', 'a-b', 3])
def test_invalid_names_raise(name):
    with pytest.raises(ValueError, match=f'identifier other than "ensemble".*; got {name!r}'):
        check_names(['teacher', name])


def test_no_members_raise():
    with pytest.raises(ValueError, match='at least one member, got none'):
        check_names([])


def test_unknown_names_raise():
    check_known('x', ['a', 'a'], MEMBERS)
    with pytest.raises(ValueError, match=r'x must name members \(teacher, a, b\); got c, d$'):
        check_known('x', ['a', 'c', 'd'], MEMBERS)


def test_trained_member_may_reuse_the_classifier_of_a_frozen_one():
    check_reuse({}, MEMBERS, {})
    check_reuse(dict(a='teacher', b='teacher'), MEMBERS, dict(teacher=None))


@pytest.mark.parametrize(
    ('reused', 'frozen', 'message'),
    [
        (dict(c='teacher'), ['teacher'], r'reused_classifiers must name members .*; got c$'),
        (dict(a='c'), ['teacher'], r'reused_classifiers must name members .*; got c$'),
        (dict(a='teacher'), [], 'trained a and a frozen teacher.*frozen members are: none$'),
        (dict(a='b'), ['teacher'], 'trained a and a frozen b.*frozen members are: teacher$'),
        (dict(teacher='a'), ['teacher', 'a'], 'trained teacher and a frozen a.* are: teacher, a$'),
        (dict(a='a'), [], 'trained a and a frozen a'),
    ],
)
def test_other_reused_classifiers_raise(reused, frozen, message):
    with pytest.raises(ValueError, match=message):
        check_reuse(reused, MEMBERS, dict.fromkeys(frozen))


ROW = Transfer('teacher', 'a', 'features', 1.0)


def test_valid_roles():
    check_roles(MEMBERS, [ROW], dict(teacher=None), dict(a=0.0, b=2))


@pytest.mark.parametrize(
    ('frozen', 'weights', 'message'),
    [
        (dict(c=None), {}, 'frozen must name members .*; got c'),
        ({}, dict(c=1.0), 'supervised_weights must name members .*; got c'),
        (dict(a=None), {}, 'Invalid transfer teacher -> a .*frozen a$'),
        (dict(teacher=None), dict(teacher=1.0), 'supervised_weights .*frozen teacher'),
        ({}, dict(a=-1.0), 'supervised weight of a must be finite and at least 0, got -1.0'),
        ({}, dict(a=float('inf')), 'must be finite and at least 0, got inf'),
    ],
)
def test_invalid_roles_raise(frozen, weights, message):
    with pytest.raises(ValueError, match=message):
        check_roles(MEMBERS, [ROW], frozen, weights)


def test_transfers_of_unknown_members_raise():
    with pytest.raises(ValueError, match='The transfer x -> a .* must name members .*; got x$'):
        check_roles(MEMBERS, [Transfer('x', 'a', 'features', 1.0)], {}, {})


def test_ensemble_by_name_function_or_default():
    assert choose_ensemble('vote', SegmentationTask()) is vote_ensemble
    assert choose_ensemble(len, SegmentationTask()) is len
    assert choose_ensemble(None, SegmentationTask()) is union_ensemble
    assert choose_ensemble(None, ClassificationTask()) is max_ensemble


@pytest.mark.parametrize('ensemble', ['union', 'wbf', 3, ['max']])
def test_invalid_ensemble_raises_with_the_names_of_the_task(ensemble):
    message = f'one of max, mean, vote for classification, or a function; got {ensemble!r}'
    with pytest.raises(ValueError, match=re.escape(message)):
        choose_ensemble(ensemble, ClassificationTask())
