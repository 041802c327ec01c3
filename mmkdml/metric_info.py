"""Readable name, unit and direction of every metric: the one home for tables, reports and files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PERCENT, FRACTION, NATS = 'percent', 'fraction', 'nats'
_DIGITS = {PERCENT: 2, FRACTION: 4, NATS: 4}
_SIGNS = {PERCENT: '%'}


@dataclass(frozen=True)
class MetricInfo:
    """Description of a metric.

    Attributes:
        name: Key without the member and the class, e.g. ``'calibration/ECE'`` or ``'IoU'``.
        title: Readable name, e.g. ``'expected calibration error'``.
        unit: ``'percent'``, ``'fraction'``, ``'nats'``, or empty if the metric has no unit.
        higher_is_better: None if neither direction is better.
    """

    name: str
    title: str
    unit: str = PERCENT
    higher_is_better: bool | None = True

    @property
    def label(self) -> str:
        """Title with the unit, for the heading of a column or axis, e.g. ``'IoU (%)'``."""
        return f'{self.title} ({_SIGNS.get(self.unit, self.unit)})' if self.unit else self.title

    @property
    def digits(self) -> int:
        """Number of decimals in tables."""
        return _DIGITS.get(self.unit, 3)


#: Known metrics by name.
METRIC_INFOS = {
    info.name: info
    for info in (
        MetricInfo('IoU', 'IoU'),
        MetricInfo('F1', 'F1'),
        MetricInfo('case_IoU', 'IoU, mean over cases'),
        MetricInfo('case_F1', 'F1, mean over cases'),
        MetricInfo('mIoU', 'IoU, mean over classes'),
        MetricInfo('mDice', 'Dice, mean over classes'),
        MetricInfo('mFscore', 'F1, mean over classes'),
        MetricInfo('mPrecision', 'precision, mean over classes'),
        MetricInfo('mRecall', 'recall, mean over classes'),
        MetricInfo('aAcc', 'pixel accuracy'),
        MetricInfo('mAcc', 'pixel accuracy, mean over classes'),
        MetricInfo('Dice', 'Dice'),
        MetricInfo('top1', 'accuracy'),
        MetricInfo('top5', 'accuracy of the top 5'),
        MetricInfo('accuracy', 'accuracy'),
        MetricInfo('precision', 'precision, mean over classes'),
        MetricInfo('recall', 'recall, mean over classes'),
        MetricInfo('f1-score', 'F1, mean over classes'),
        MetricInfo('sensitivity', 'sensitivity'),
        MetricInfo('specificity', 'specificity'),
        MetricInfo('fidelity/accuracy', 'agreement with the teacher'),
        MetricInfo('fidelity/agreement', 'pixel agreement with the teacher'),
        MetricInfo('fidelity/IoU', "IoU with the teacher's masks"),
        MetricInfo('fidelity/F1', "F1 with the teacher's masks"),
        MetricInfo('fidelity/KL', 'KL divergence from the teacher', NATS, False),
        MetricInfo('diversity/disagreement', 'disagreement of the students', PERCENT, None),
        MetricInfo('diversity/error_correlation', 'correlation of errors', '', None),
        MetricInfo('calibration/ECE', 'expected calibration error', FRACTION, False),
        MetricInfo(
            'calibration/ECE_near_foreground',
            'expected calibration error near the foreground',
            FRACTION,
            False,
        ),
        MetricInfo('loss', 'loss', '', False),
    )
}
# Names in other groups are unique without the group.
_GROUPS = {'fidelity', 'diversity', 'calibration'}
_WITH_CLASS = re.compile(r'(IoU|F1|precision|sensitivity|specificity)_(.+)')
_WITH_PAIR = re.compile(r'(diversity/(?:disagreement|error_correlation))_(.+)')


def metric_info(key: str) -> MetricInfo | None:
    """Describe a metric, or return None if it is unknown.

    Args:
        key: Key of an evaluator with or without the member and group, e.g.
            ``'student_1/calibration/ECE'``, ``'foreground/IoU'``, ``'IoU'`` or
            ``'ensemble/per_class/sensitivity_melanoma'``.
    """
    *groups, last = key.split('/')
    name = f'{groups[-1]}/{last}' if groups and groups[-1] in _GROUPS else last
    if name in METRIC_INFOS:
        return METRIC_INFOS[name]
    if found := _WITH_CLASS.fullmatch(name):
        info = METRIC_INFOS[found[1]]
        return replace(info, title=f'{found[1]} of {found[2]}')
    if found := _WITH_PAIR.fullmatch(name):
        info = METRIC_INFOS[found[1]]
        return replace(info, title=f'{info.title}: {found[2]}')
    return None
