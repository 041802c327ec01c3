import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mmengine.optim import OptimWrapper
from torch import nn

from mmkdml.datasets import SplitClassificationDataset, SplitSegDataset
from mmkdml.engine import DiscriminatorOptimWrapperConstructor
from mmkdml.engine.hooks import LossBalanceHook, PanelHook, ReliabilityHook
from mmkdml.experiments.tuning.space import (
    SearchSpace,
    lattice,
    letters_of,
    paper_grid,
    simplex_point,
)

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4),
    st.sampled_from([10**400, [], {}, (1, 2), 'kdml', 'SGD', dict(type='SGD', lr=0.1)]),
)  # fmt: skip
STEPS = st.floats() | st.sampled_from(
    [0.05, 0.1, 0.25, 0.5, 1 / 3, 1e-9, 1e-320, 'x', None, 10**400]
)


@given(interval=VALUES, dominance=VALUES, negligible=VALUES)
@example(interval='x', dominance=10.0, negligible=0.0)
@example(interval=None, dominance='x', negligible=0.0)
@example(interval=None, dominance=10.0, negligible=None)
@example(interval=1.5, dominance=10.0, negligible=0.0)
def test_loss_balance_hook(attempt, interval, dominance, negligible):
    attempt(lambda: LossBalanceHook(interval, dominance, negligible))


@given(num=VALUES, out_dir=VALUES)
@example(num='x', out_dir='panels')
@example(num=1.5, out_dir='panels')
@example(num=1, out_dir=3)
def test_panel_and_reliability_hooks(attempt, num, out_dir):
    attempt(lambda: PanelHook(out_dir, num))
    attempt(lambda: ReliabilityHook(out_dir))


@given(letters=st.sampled_from(['ml', 'kdml']).map(letters_of), step=STEPS)
@example(letters=('alpha', 'gamma'), step=1e-320)
@example(letters=('alpha', 'gamma'), step=1e-9)
@example(letters=('alpha', 'gamma'), step='x')
def test_grid_steps(attempt, letters, step):
    grid = attempt(lambda: lattice(letters, step))
    if grid is not None:
        assert len(set(grid)) == len(grid) > 0
        assert all(abs(sum(point) - 1) < 1e-9 and min(point) > 0 for point in grid)
        assert all(min(abs(w / step - round(w / step)) for w in point) < 1e-4 for point in grid)


RANGES = VALUES | st.lists(VALUES, max_size=3)


@given(mode=VALUES, lr=RANGES, temperature=RANGES, tied=st.booleans(), grid=st.booleans())
@example(mode='kdml', lr=('a', 'b'), temperature=None, tied=False, grid=False)
@example(mode='kdml', lr=(1,), temperature=None, tied=False, grid=False)
@example(mode='kdml', lr=3, temperature=None, tied=False, grid=False)
@example(mode='kdml', lr=(1, 10**400), temperature=None, tied=False, grid=False)
def test_search_spaces(attempt, mode, lr, temperature, tied, grid):
    letters = attempt(lambda: letters_of(mode))
    if letters is not None:
        points = paper_grid(letters) if grid else None
        attempt(lambda: SearchSpace(letters, points, tied, lr, temperature))


@given(quantiles=st.lists(st.floats(0, 1), min_size=1, max_size=2))
def test_simplex_points(quantiles):
    point = simplex_point(quantiles)
    assert len(point) == len(quantiles) + 1
    assert min(point) >= 0
    assert sum(point) == pytest.approx(1, abs=1e-9)


class Network(nn.Module):
    """Learner with a discriminator, as in SKD."""

    def __init__(self):
        super().__init__()
        self.learner = nn.Linear(1, 1)
        self.loss = nn.Module()
        self.loss.discriminator = nn.Linear(1, 1)
        self.loss.discriminator_loss = None


SETTINGS = st.dictionaries(
    st.sampled_from(['type', 'lr', 'momentum', 'weight_decay', 'colour']),
    VALUES | st.sampled_from(['SGD', 'Adam', nn.Linear, 0.1]),
)


@given(optimizer=SETTINGS | VALUES, discriminator=SETTINGS | VALUES)
@example(optimizer=dict(type='Nope'), discriminator=dict(type='SGD', lr=0.1))
@example(optimizer=dict(type='SGD', lr='x'), discriminator=dict(type='SGD', lr=0.1))
@example(optimizer=dict(type='SGD', lr=-1), discriminator=dict(type='SGD', lr=0.1))
def test_discriminator_optimizer(attempt, optimizer, discriminator):
    settings = dict(type=OptimWrapper, optimizer=optimizer, discriminator_optimizer=discriminator)
    attempt(lambda: DiscriminatorOptimWrapperConstructor(settings)(Network()))


@given(
    kind=st.sampled_from([SplitClassificationDataset, SplitSegDataset]),
    changes=st.dictionaries(
        st.sampled_from(
            [
                'ann_file',
                'data_root',
                'allow_outside',
                'test_mode',
                'indices',
                'pipeline',
                'metainfo',
                'colour',
            ]
        ),
        VALUES
        | st.sampled_from([dict(classes=3), dict(classes=['a', 'b']), [dict(type='Nope')], [3]]),
        min_size=1,
        max_size=2,
    ),
)
@example(kind=SplitSegDataset, changes=dict(ann_file=3))
@example(kind=SplitSegDataset, changes=dict(ann_file='a\0'))
@example(kind=SplitSegDataset, changes=dict(data_root=3))
@example(kind=SplitSegDataset, changes=dict(indices=0))
def test_split_datasets(attempt, tmp_path, kind, changes):
    (tmp_path / 'a.png').touch()
    (tmp_path / 'split.csv').write_text('id,path,mask,group,label\na,a.png,a.png,g,0\n')
    settings = dict(ann_file=str(tmp_path / 'split.csv'), data_root=str(tmp_path)) | changes
    attempt(lambda: kind(**settings))
