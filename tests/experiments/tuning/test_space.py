import numpy as np
import pytest
from optuna.trial import FixedTrial
from scipy import stats

from mmkdml.experiments.paper.values import read_data
from mmkdml.experiments.tuning.space import (
    SearchSpace,
    flat,
    lattice,
    letters_of,
    paper_grid,
    simplex_point,
    temperature_matters,
)
from mmkdml.models.transfers import transfers_for
from mmkdml.modes import MODES, STYLES

ALL = ('alpha', 'beta', 'gamma')


def published():
    """Mode and weights of each student in each row of the paper's tables."""
    for row in read_data('reference_weights.csv'):
        for number in '12':
            letters = letters_of(row['mode'])
            yield row['mode'], tuple(float(row[f'{letter}_{number}']) for letter in letters)


@pytest.mark.parametrize('grid', [paper_grid, lambda letters: lattice(letters, 0.05)])
def test_grids_contain_all_published_weights(grid):
    rows = set(published())
    assert len(rows) == 10  # 3 of ml and kdml, 2 of each kd
    missing = [(mode, point) for mode, point in rows if point not in grid(letters_of(mode))]
    assert missing == []


def test_paper_grid_has_equal_shares():
    assert paper_grid(('alpha', 'gamma'))[:2] == ((0.1, 0.9), (0.2, 0.8))
    grid = paper_grid(ALL)
    assert len(grid) == 9
    for tenths, (alpha, beta, gamma) in enumerate(grid, 1):
        assert alpha == tenths / 10
        assert beta == gamma == pytest.approx((1 - alpha) / 2)


@pytest.mark.parametrize(('letters', 'step'), [(ALL, 0.25), (ALL, 0.1), (ALL[:2], 0.2)])
def test_lattice_equals_exhaustive_search(letters, step):
    parts = round(1 / step)
    every = np.array(np.meshgrid(*[range(1, parts)] * len(letters))).reshape(len(letters), -1).T
    expected = {tuple(row / parts) for row in every if row.sum() == parts}
    points = lattice(letters, step)
    assert len(points) == len(expected)
    assert set(points) == expected


@pytest.mark.parametrize('step', [0.3, 0.5, 1, 0, -0.1])
def test_invalid_step_raises(step):
    with pytest.raises(ValueError, match=f'1/3 for alpha, beta, gamma, got {step:g}'):
        lattice(ALL, step)


@pytest.mark.parametrize('size', [2, 3])
def test_uniform_quantiles_are_uniform_on_the_simplex(size):
    quantiles = np.random.default_rng(0).random((4000, size - 1))
    points = np.array([simplex_point(row) for row in quantiles])
    assert (points >= 0).all()
    assert points.sum(1) == pytest.approx(np.ones(4000), abs=1e-12)
    # Each coordinate of Dirichlet(1, ..., 1) is Beta(1, k - 1), and so are ratios of the others.
    for weights in points.T:
        assert stats.kstest(weights, stats.beta(1, size - 1).cdf).pvalue > 0.01
    if size == 3:
        ratio = points[:, 1] / (points[:, 1] + points[:, 2])
        assert stats.kstest(ratio, 'uniform').pvalue > 0.01
        assert abs(stats.spearmanr(ratio, points[:, 0]).statistic) < 0.05


def test_corners_of_the_simplex():
    assert simplex_point([1, 0.5]) == (1, 0, 0)
    assert simplex_point([0, 1]) == (0, 1, 0)
    assert simplex_point([0, 0]) == (0, 0, 1)
    assert simplex_point([0.75, 0.2]) == (0.5, 0.1, 0.4)  # 1 - sqrt(1 - 3/4) = 1/2


@pytest.mark.parametrize('mode', MODES)
def test_letters_are_the_weights_of_the_mode(mode):
    letters = letters_of(mode)
    weights = dict.fromkeys(letters, (0.5, 0.5))
    assert transfers_for(mode, 'v1', weights)  # accepts them
    for letter in letters:  # and requires each
        with pytest.raises(ValueError, match=f'missing: {letter}'):
            transfers_for(mode, 'v1', {key: weights[key] for key in letters if key != letter})


def test_unknown_mode_raises():
    with pytest.raises(ValueError, match="mode.* ml, kd_off, kd_on, kdml.* got 'kd'"):
        letters_of('kd')


def test_temperature_matters_only_for_predictions():
    for mode in MODES:
        assert [temperature_matters(mode, style) for style in STYLES] == [True, False, True]


def test_options_of_a_grid():
    space = SearchSpace(ALL, paper_grid(ALL))
    assert space.size() == 81
    assert space.choices()['student_2'][:2] == ['0.1 0.45 0.45', '0.2 0.4 0.4']
    options = space.options(FixedTrial({'student_1': '0.1 0.45 0.45', 'student_2': '0.4 0.3 0.3'}))
    assert options == {
        'model.weights.alpha': (0.1, 0.4),
        'model.weights.beta': (0.45, 0.3),
        'model.weights.gamma': (0.45, 0.3),
    }


def test_options_of_tied_students():
    space = SearchSpace(('alpha', 'beta'), paper_grid(('alpha', 'beta')), tied=True)
    assert space.size() == 9
    options = space.options(FixedTrial({'students': '0.2 0.8'}))
    assert options == {'model.weights.alpha': (0.2, 0.2), 'model.weights.beta': (0.8, 0.8)}


def test_options_of_the_simplex():
    space = SearchSpace(ALL, lr=(1e-5, 1e-2), temperature=(1, 8))
    assert space.size() is None
    params = {
        'student_1.alpha_quantile': 0.75,
        'student_1.beta_quantile': 0.2,
        'student_2.alpha_quantile': 0.0,
        'student_2.beta_quantile': 0.5,
        'lr': 0.000123456,
        'temperature': 2.3456,
    }
    trial = FixedTrial(params)
    options = space.options(trial)
    assert options == {
        'model.weights.alpha': (0.5, 0.0),
        'model.weights.beta': (0.1, 0.5),
        'model.weights.gamma': (0.4, 0.5),
        'optim_wrapper.optimizer.lr': 0.000123,
        'model.temperature': 2.35,
    }
    assert trial.distributions['lr'].log
    assert not trial.distributions['temperature'].log
    assert flat(options) == dict(
        alpha_1=0.5, alpha_2=0, beta_1=0.1, beta_2=0.5, gamma_1=0.4, gamma_2=0.5,
        lr=0.000123, temperature=2.35,
    )  # fmt: skip


@pytest.mark.parametrize('ends', [(0, 1), (2, 1), (1, 1), (-1, 1), (1, float('nan'))])
def test_invalid_ranges_raise(ends):
    with pytest.raises(ValueError, match='temperature: .* got'):
        SearchSpace(ALL, temperature=ends)
    with pytest.raises(ValueError, match='learning rate: .* got'):
        SearchSpace(ALL, lr=ends)


def test_grid_with_learning_rate_raises():
    with pytest.raises(ValueError, match='learning rate: .* sampler tpe'):
        SearchSpace(ALL, paper_grid(ALL), lr=(1e-4, 1e-3))
