import copy

import pytest

from mmkdml.experiments.report.metadata import check_metadata
from mmkdml.statistics.records import RunRecord

METADATA = dict(
    config='c.py', config_text='lr = 1', command='python c.py', seconds=3, device='CPU',
    versions=dict(torch='2'), splits=dict(train=dict(images=3)), input_size=[8, 8],
    members=dict(teacher=dict(parameters=9, flops=8)), checkpoints=dict(best=0, last=2),
)  # fmt: skip


def check(metadata):
    check_metadata(RunRecord('kdml_v3', 1, 'kdml', 'v3', 'done', metadata=metadata))


def test_additional_metadata_is_valid_and_unchanged():
    metadata = copy.deepcopy(METADATA) | dict(more=3)
    check(metadata)
    assert metadata == METADATA | dict(more=3)


@pytest.mark.parametrize('name', METADATA)
def test_missing_entry_raises(name):
    metadata = {key: value for key, value in METADATA.items() if key != name}
    with pytest.raises(ValueError, match=rf'metadata of kdml_v3, seed 1: .*\s{name}\s'):
        check(metadata)


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
def test_invalid_entry_raises(name, value, place):
    with pytest.raises(ValueError, match=rf'metadata of kdml_v3, seed 1: .*\s{place}'):
        check(METADATA | {name: value})
