import numpy as np
import pandas as pd
import pytest

from mmkdml.statistics.counts import count_cases
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord


@pytest.fixture(scope='session')
def classified():
    """Function that builds a case table of one member for images of class 1, groups by default."""

    def build(correct, member='ensemble', groups=None):
        correct = np.asarray(correct, int)
        ids = [f'i{index}' for index in range(len(correct))]
        groups = ids if groups is None else groups
        return pd.DataFrame(dict(member=member, id=ids, group=groups, truth=1, pred=correct))

    return build


@pytest.fixture(scope='session')
def counts_of():
    """Function that counts ``{(name, seed): case tables}``."""

    def count(tables):
        runs = [
            RunRecord(
                name, seed, 'ml', 'v1', 'done', measured={'best': Measurement({}, pd.concat(cases))}
            )
            for (name, seed), cases in tables.items()
        ]
        return count_cases(SuiteRecord('s', 'S', ('accuracy',), (), runs), 'best')

    return count


@pytest.fixture(scope='session')
def random_tables(classified):
    """Function that builds case tables of some runs with random errors."""

    def build(seeds=3, images=30, names=('a', 'b'), accuracy=0.7):
        rng = np.random.default_rng(7)
        return {
            (name, seed): [classified(rng.random(images) < accuracy)]
            for name in names
            for seed in range(seeds)
        }

    return build
