"""Size, family error, coverage and power of the tests of differences, on simulated suites."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from prettytable import PrettyTable
from scipy.optimize import brentq
from scipy.special import expit

from mmkdml.statistics.differences import Comparison, over_seeds, pool_seeds
from mmkdml.statistics.measures import MEASURES

ALPHA = 0.05
STYLES, MODES = 3, 4
#: Pairs of runs (mode, style) that a family of nine claims compares: the last mode with each other.
CLAIMS = [(9 + style, 3 * mode + style) for style in range(STYLES) for mode in range(MODES - 1)]
_CASE, _METHOD_CASE, _IMAGE = 1.2, 0.15, 1.0  # standard deviations in logits
_SHARED = 0.1  # seed effect that all runs share
_LEVELS = {'IoU': 1.2, 'accuracy': 1.5}  # mean logits
_IMAGES = 5  # mean number of images of a group for accuracy
_CHUNK = 50  # data sets that are simulated at once


@dataclass(frozen=True)
class Regime:
    """Suites of twelve runs, four modes in three styles, tested on the same cases.

    The logit of a case is normal: a part that all runs share (standard deviation 1.2), one of the
    run (0.15), and one of run and seed (``interaction``). IoU is computed from summed pixels of
    log-normal sizes, accuracy from about five images per group.

    Attributes:
        measure: ``'IoU'`` or ``'accuracy'``.
        groups: Number of groups of test cases.
        seeds: Number of seeds.
        seed_sd: Standard deviation of a run over seeds, in points.
        interaction: Standard deviation of run x seed x case, in logits.
        gain: True difference of the power, in points.
    """

    measure: str
    groups: int
    seeds: int
    seed_sd: float = 1.5
    interaction: float = 0.5
    gain: float = 8.0

    @property
    def label(self) -> str:
        """Description, e.g. ``'IoU, 100 groups, 3 seeds, seed sd 1.5, ...'``."""
        return (
            f'{self.measure}, {self.groups} groups, {self.seeds} seeds, seed sd {self.seed_sd:g}, '
            f'interaction {self.interaction:g}, gain {self.gain:g}'
        )


@dataclass(frozen=True)
class Calibration:
    """Rates of one regime in percent, each with its Monte Carlo standard error.

    Attributes:
        size: p < 0.05 of a claim under the null hypothesis.
        family: Any wrong verdict in a family of nine claims after Holm's correction.
        coverage: 95 % interval of a difference that is the gain of the regime.
        mean_coverage: 95 % interval of a mean.
        power: A difference that is the gain of the regime, at the level 0.05 / 9.
        data_sets: Number of simulated suites.
        errors: Standard errors of the five rates over suites, by name.
    """

    size: float
    family: float
    coverage: float
    mean_coverage: float
    power: float
    data_sets: int
    errors: Mapping[str, float]


#: Regimes in which cases or seeds dominate.
REGIMES = (
    Regime('IoU', 100, 3),
    Regime('IoU', 100, 3, 3.0, 0.3),
    Regime('IoU', 20, 3, gain=12.0),
    Regime('IoU', 6, 3, gain=12.0),
    Regime('IoU', 100, 2),
    Regime('IoU', 100, 5),
    Regime('IoU', 100, 10),
    Regime('IoU', 20, 3, 5.0, 0.3, 12.0),
    Regime('accuracy', 100, 3),
    Regime('accuracy', 750, 3),
    Regime('accuracy', 750, 3, 3.0),
)


def measure_calibration(regime: Regime, data_sets: int = 500, rng: int = 0) -> Calibration:
    """Simulate suites and test them with :mod:`mmkdml.statistics.differences`.

    Args:
        regime: Sizes and variances.
        data_sets: Number of simulated suites.
        rng: Random seed.

    Raises:
        ValueError: If there are fewer than two seeds, with which no difference is tested.
    """
    if regime.seeds < 2:
        raise ValueError(f'Invalid regime: expected at least 2 seeds, got {regime.seeds}')
    generator = np.random.default_rng(rng)
    level = _LEVELS[regime.measure]
    truth = expected_value(regime, level)
    higher = brentq(lambda x: expected_value(regime, x) - truth - regime.gain, level, level + 4)
    levels = np.full(STYLES * MODES, level)
    better = np.where(np.arange(len(levels)) < 9, level, higher)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, data_sets, _CHUNK):
        number = min(_CHUNK, data_sets - start)
        null = simulate(regime, levels, number, generator)
        values = evaluate(regime.measure, null)
        p = np.stack([compare(values, *pair).p for pair in CLAIMS], 1)
        found.setdefault('size', []).append((p < ALPHA).mean(1))
        found.setdefault('family', []).append(np.asarray((p < ALPHA / len(CLAIMS)).any(1)))
        low, high = mean_interval(values, 0)
        found.setdefault('mean_coverage', []).append(np.asarray((low <= truth) & (truth <= high)))
        gained = simulate(regime, better, number, generator)
        values = evaluate(regime.measure, gained)
        claims = [compare(values, *pair) for pair in CLAIMS]
        low, high = np.stack([one.interval(1 - ALPHA) for one in claims], -1)
        covered = (low <= regime.gain) & (regime.gain <= high)
        found.setdefault('coverage', []).append(covered.mean(1))
        held = [(one.value > 0) & (one.p < ALPHA / len(CLAIMS)) for one in claims]
        found.setdefault('power', []).append(np.mean(held, axis=0))
    rates = {name: 100 * np.concatenate(parts) for name, parts in found.items()}
    errors = {name: float(one.std() / np.sqrt(data_sets)) for name, one in rates.items()}
    means = {name: float(one.mean()) for name, one in rates.items()}
    return Calibration(**means, data_sets=data_sets, errors=errors)


def measure_calibrations(data_sets: int = 500) -> dict[str, Calibration]:
    """Measure all regimes of :data:`REGIMES`."""
    return {one.label: measure_calibration(one, data_sets) for one in REGIMES}


def simulate(
    regime: Regime, levels: np.ndarray, data_sets: int, rng: np.random.Generator
) -> np.ndarray:
    """Simulate TP, FP and FN of one class, (D, R, S, G, 3, 1), of runs with R mean logits."""
    runs, seeds, groups = len(levels), regime.seeds, regime.groups
    seed_sd = _seed_logits(regime)
    logits = (
        levels[:, None, None]
        + rng.normal(0, _CASE, (data_sets, 1, 1, groups))
        + rng.normal(0, _SHARED, (data_sets, 1, seeds, 1))
        + rng.normal(0, seed_sd, (data_sets, runs, seeds, 1))
        + rng.normal(0, _METHOD_CASE, (data_sets, runs, 1, groups))
        + rng.normal(0, regime.interaction, (data_sets, runs, seeds, groups))
    )
    if regime.measure == 'IoU':
        pixels = np.round(2000 * np.exp(rng.normal(0, 1, (data_sets, 1, 1, groups))))
        correct = np.round(pixels * _overlap(expit(logits)))
    else:
        images = 1 + rng.poisson(_IMAGES - 1, (data_sets, 1, 1, groups))
        pixels, correct = images, np.zeros(logits.shape)
        for image in range(images.max()):
            easiness = rng.normal(0, _IMAGE, images.shape)
            right = rng.random(logits.shape) < expit(logits + easiness)
            correct += right & (image < images)
    wrong = pixels - correct
    return np.stack([correct, wrong, wrong], -1)[..., None]


@dataclass(frozen=True)
class Values:
    """Measure of D suites of R runs with S seeds, tested on G groups of cases.

    Attributes:
        all_cases: Measure in percent, (D, R, S).
        left_out: Measure without each group, (D, R, G, S).
    """

    all_cases: np.ndarray
    left_out: np.ndarray


def evaluate(measure: str, counts: np.ndarray) -> Values:
    """Compute a measure of simulated suites from the result of :func:`simulate`."""
    value, total = MEASURES[measure].value, counts.sum(-3, keepdims=True)
    return Values(value(total)[..., 0], np.moveaxis(value(total - counts), -1, -2))


def compare(values: Values, better: int, other: int) -> Comparison:
    """Test the difference of two runs of each suite."""
    pooled = pool_seeds(values.all_cases)
    differences, left_out = (
        one[:, better] - one[:, other] for one in (values.all_cases, values.left_out)
    )
    return Comparison([over_seeds(differences, left_out, pooled + pooled)])


def mean_interval(values: Values, run: int) -> tuple[np.ndarray, np.ndarray]:
    """Compute the interval of the mean of one run of each suite."""
    pooled = pool_seeds(values.all_cases, shared=True)
    tested = over_seeds(values.all_cases[:, run], values.left_out[:, run], pooled)
    return tested.percent_interval(1 - ALPHA)


def expected_value(regime: Regime, level: float) -> float:
    """Compute the measure in percent of a run with a mean logit, for infinitely many cases."""
    return _expected(regime, level, float(np.hypot(_seed_logits(regime), _SHARED)))


def _expected(regime: Regime, level: float, seed_sd: float) -> float:
    nodes, weights = np.polynomial.hermite_e.hermegauss(61)
    case_sd = np.sqrt(_CASE**2 + _METHOD_CASE**2 + regime.interaction**2)
    overlap: Callable[[np.ndarray], np.ndarray] = _overlap
    if regime.measure == 'accuracy':
        case_sd, overlap = np.hypot(case_sd, _IMAGE), np.asarray
    # The measure of a seed is a ratio of means over cases, and its mean is that over seeds.
    logits = level + case_sd * nodes[:, None] + seed_sd * nodes
    correct = (weights @ overlap(expit(logits))) / weights.sum()
    values = correct / (2 - correct) if regime.measure == 'IoU' else correct
    return float(100 * (values @ weights) / weights.sum())


def _overlap(p: np.ndarray) -> np.ndarray:
    """Return the share of correct pixels of a case with IoU p and as many false as missed ones."""
    return 2 * p / (1 + p)


def _seed_logits(regime: Regime) -> float:
    """Convert the standard deviation over seeds from points to logits."""
    level = _LEVELS[regime.measure]
    slope = (_expected(regime, level + 0.05, 0) - _expected(regime, level - 0.05, 0)) / 0.1
    return regime.seed_sd / slope


def format_calibration(found: Mapping[str, Calibration]) -> str:
    """Format rates in percent ± Monte Carlo standard error, a row per regime."""
    names = {
        'size': 'size (5)',
        'family': 'family of 9 (5)',
        'coverage': 'coverage (95)',
        'mean_coverage': 'coverage of a mean (95)',
        'power': 'power at 0.05/9',
    }
    table = PrettyTable(['regime', *names.values(), 'suites'], align='r')
    table.align['regime'] = 'l'
    for label, one in found.items():
        rates = [f'{getattr(one, name):.1f} ± {one.errors[name]:.1f}' for name in names]
        table.add_row([label, *rates, one.data_sets])
    return f'Rates in percent ± Monte Carlo standard error (nominal value).\n{table.get_string()}'
