"""Measures of a run: titles, groups, the main measure and the best validation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from mmkdml.apis.summary.history import Evaluation, History
from mmkdml.metric_info import AUXILIARY_GROUPS, class_of_metric, metric_info
from mmkdml.names import ENSEMBLE, PLAIN


def title_of(measure: str) -> str:
    """Return the title of a measure with its unit: ``'IoU, mean of cases (%)'``."""
    info = metric_info(measure)
    return info.label if info else measure.rpartition('/')[2]


def symbol(measure: str) -> str:
    """Return the symbol of a measure's unit, e.g. ``'%'``; empty if it has none."""
    info = metric_info(measure)
    return info.sign if info else ''


def digits_of(measure: str) -> int:
    """Return the number of decimals in tables."""
    info = metric_info(measure)
    return info.digits if info else 4


def group_of(measure: str) -> str:
    """Return the group of a measure, an auxiliary one or an empty string."""
    first = measure.partition('/')[0]
    return first if first in AUXILIARY_GROUPS else ''


def is_less_better(measure: str) -> bool:
    """Return whether lower values of a measure are better."""
    info = metric_info(measure)
    if info is not None:
        return info.higher_is_better is False
    return 'loss' in measure.lower()


def has_direction(measure: str) -> bool:
    """Return whether one direction of a measure is better."""
    info = metric_info(measure)
    return info is None or info.higher_is_better is not None


def class_of(measure: str) -> tuple[str, str] | None:
    """Split a measure of one class, ``foreground/IoU_tumour``, into ``IoU`` and the class."""
    return None if group_of(measure) else class_of_metric(measure)


def main_measure(history: History) -> str | None:
    """Return the measure that selects the best checkpoint, otherwise the first one."""
    measures = measures_of(history.evaluations)
    settings = history.identity.get('settings')
    for key in ('default_hooks', 'checkpoint', 'save_best'):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    keys = settings if isinstance(settings, list) else [settings]
    for key in filter(lambda one: isinstance(one, str), keys):
        for measure in measures:
            if key == measure or key.endswith(f'/{measure}'):
                return measure
    return next((one for one in measures if not group_of(one) and not class_of(one)), None)


def measures_of(evaluations: Iterable[Evaluation]) -> list[str]:
    """Return the measures of evaluations in order."""
    return list(
        dict.fromkeys(
            measure for one in evaluations for values in one.values.values() for measure in values
        )
    )


def best_value(points: Sequence[tuple[float, float]], measure: str) -> tuple[float, float] | None:
    """Return the point with the best value; the first of equal ones."""
    known = [point for point in points if math.isfinite(point[1])]
    sign = -1 if is_less_better(measure) else 1
    return max(known, key=lambda point: sign * point[1], default=None)


def value_of(evaluation: Evaluation, member: str, measure: str | None) -> float:
    """Return a value; NaN if it is missing."""
    return evaluation.values.get(member, {}).get(measure or '', math.nan)


def best_validation(history: History, measure: str | None) -> Evaluation | None:
    """Return the validation with the best value of the ensemble or the only network."""
    validations = [one for one in history.evaluations if one.split == 'val']
    sign = -1 if measure and is_less_better(measure) else 1

    def score(one: Evaluation) -> float:
        value = value_of(one, ENSEMBLE if ENSEMBLE in one.values else PLAIN, measure)
        return sign * value if math.isfinite(value) else -math.inf

    return max(validations, key=score, default=None)
