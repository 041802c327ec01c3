"""Roles as such; in a classroom they are tried in ``test_knowledge_distiller.py``."""

import pytest

from mmkdml.models.distillers.validation import check_known, check_names, check_reuse, check_roles
from mmkdml.models.transfers import Transfer

MEMBERS = ('teacher', 'a', 'b')


def test_names_that_can_be():
    check_names(['teacher', 'student_1', 'ä'])


@pytest.mark.parametrize('name', ['ensemble', 'a.b', '1a', '', 'a-b', 3])
def test_names_that_cannot(name):
    with pytest.raises(ValueError, match=f'identifier other than "ensemble".*; got {name!r}'):
        check_names(['teacher', name])


def test_no_members():
    with pytest.raises(ValueError, match='at least one member, got none'):
        check_names([])


def test_known_names():
    check_known('x', ['a', 'a'], MEMBERS)
    with pytest.raises(ValueError, match=r'x must name members \(teacher, a, b\); got c, d$'):
        check_known('x', ['a', 'c', 'd'], MEMBERS)


def test_a_classifier_of_a_frozen_member_is_reused_by_one_that_learns():
    check_reuse({}, MEMBERS, {})
    check_reuse(dict(a='teacher', b='teacher'), MEMBERS, dict(teacher=None))


@pytest.mark.parametrize(
    ('reused', 'frozen', 'message'),
    [
        (dict(c='teacher'), ['teacher'], r'reused_classifiers must name members .*; got c$'),
        (dict(a='c'), ['teacher'], r'reused_classifiers must name members .*; got c$'),
        (dict(a='teacher'), [], 'a can only answer with the classifier of teacher if.*are: none$'),
        (dict(a='b'), ['teacher'], 'if b is frozen and a learns: it must .* members are: teacher$'),
        (dict(teacher='a'), ['teacher', 'a'], 'teacher can only answer .* are: teacher, a$'),
        (dict(a='a'), [], 'a can only answer with the classifier of a'),
    ],
)
def test_other_classifiers_are_not_reused(reused, frozen, message):
    with pytest.raises(ValueError, match=message):
        check_reuse(reused, MEMBERS, dict.fromkeys(frozen))


ROW = Transfer('teacher', 'a', 'features', 1.0)


def test_roles_that_can_be():
    check_roles(MEMBERS, [ROW], dict(teacher=None), dict(a=0.0, b=2))


@pytest.mark.parametrize(
    ('frozen', 'weights', 'message'),
    [
        (dict(c=None), {}, 'frozen must name members .*; got c'),
        ({}, dict(c=1.0), 'supervised_weights must name members .*; got c'),
        (dict(a=None), {}, 'a is frozen and cannot learn in the transfer teacher -> a'),
        (dict(teacher=None), dict(teacher=1.0), 'teacher is frozen and has no supervised loss'),
        ({}, dict(a=-1.0), 'supervised weight of a must be finite and at least 0, got -1.0'),
        ({}, dict(a=float('inf')), 'must be finite and at least 0, got inf'),
    ],
)
def test_roles_that_cannot(frozen, weights, message):
    with pytest.raises(ValueError, match=message):
        check_roles(MEMBERS, [ROW], frozen, weights)


def test_transfers_of_unknown_members():
    with pytest.raises(ValueError, match='The transfer x -> a .* must name members .*; got x$'):
        check_roles(MEMBERS, [Transfer('x', 'a', 'features', 1.0)], {}, {})
