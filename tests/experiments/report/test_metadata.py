import copy

import pytest

from mmkdml.experiments.report.metadata import check_metadata
from mmkdml.statistics.records import RunRecord

FACTS = dict(
    config='c.py', config_text='lr = 1', command='python c.py', seconds=3, device='CPU',
    versions=dict(torch='2'), splits=dict(train=dict(images=3)), input_size=[8, 8],
    members=dict(teacher=dict(parameters=9, flops=8)), checkpoints=dict(best=0, last=2),
)  # fmt: skip


def check(facts):
    check_metadata(RunRecord('kdml_v3', 1, 'kdml', 'v3', 'done', metadata=facts))


def test_whole_facts_may_be_more_and_stay_as_they_are():
    facts = copy.deepcopy(FACTS) | dict(more=3)
    check(facts)
    assert facts == FACTS | dict(more=3)


@pytest.mark.parametrize('name', FACTS)
def test_a_missing_fact_is_named(name):
    facts = {key: value for key, value in FACTS.items() if key != name}
    with pytest.raises(ValueError, match=rf'facts of kdml_v3, seed 1, are not .*\s{name}\s'):
        check(facts)


@pytest.mark.parametrize(
    ('name', 'value', 'place'),
    [
        ('seconds', 'long', 'seconds'),
        ('seconds', float('inf'), 'seconds'),
        ('input_size', [8], r'input_size\.1'),
        ('input_size', [8, 0], r'input_size\.1'),
        ('members', dict(teacher=dict(parameters=0, flops=8)), r'members\.teacher\.parameters'),
        ('members', dict(teacher=dict(parameters=10**400, flops=8)), r'members\.teacher\.param'),
        ('splits', dict(train=3), r'splits\.train'),
        ('checkpoints', dict(best=1), r'checkpoints\.last'),
        ('versions', [], 'versions'),
    ],
)
def test_a_fact_of_another_kind_is_named(name, value, place):
    with pytest.raises(ValueError, match=rf'facts of kdml_v3, seed 1, are not .*\s{place}'):
        check(FACTS | {name: value})
