"""Readable name, unit and direction of every metric: the one home for tables, reports and files."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

PERCENT, FRACTION, NATS, CORRELATION = 'percent', 'fraction', 'nats', 'correlation'
MM, ML, PX, NUMBER = 'mm', 'ml', 'px', 'number'
_DIGITS = {PERCENT: 2, FRACTION: 4, NATS: 4, MM: 2, PX: 2, NUMBER: 2}
_SIGNS = {PERCENT: '%', CORRELATION: '', NUMBER: ''}


@dataclass(frozen=True)
class MetricInfo:
    """Description of a metric.

    Attributes:
        name: Key without the member and the class, e.g. ``'calibration/ECE'`` or ``'IoU'``.
        title: Readable name, e.g. ``'Expected calibration error'``.
        unit: ``'percent'``, ``'fraction'``, ``'nats'``, ``'correlation'``, ``'mm'``, ``'ml'``,
            ``'px'`` or ``'number'``; empty if unknown.
        higher_is_better: None if neither direction is better.
    """

    name: str
    title: str
    unit: str = PERCENT
    higher_is_better: bool | None = True

    @property
    def sign(self) -> str:
        """Symbol of the unit, e.g. ``'%'``; empty for correlations and numbers."""
        return _SIGNS.get(self.unit, self.unit)

    @property
    def label(self) -> str:
        """Title with the unit, for the heading of a column or axis, e.g. ``'IoU (%)'``."""
        return f'{self.title} ({self.sign})' if self.sign else self.title

    @property
    def difference_unit(self) -> str:
        """Unit of differences: ``'points'`` of percentages; empty without a unit."""
        return 'points' if self.unit == PERCENT else self.sign

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
        MetricInfo('case_IoU', 'IoU, mean of cases'),
        MetricInfo('case_F1', 'F1, mean of cases'),
        MetricInfo('mIoU', 'IoU, mean of classes'),
        MetricInfo('mDice', 'Dice, mean of classes'),
        MetricInfo('mFscore', 'F1, mean of classes'),
        MetricInfo('mPrecision', 'Precision, mean of classes'),
        MetricInfo('mRecall', 'Sensitivity, mean of classes'),
        MetricInfo('aAcc', 'Pixel accuracy'),
        MetricInfo('mAcc', 'Pixel accuracy, mean of classes'),
        MetricInfo('Dice', 'Dice'),
        MetricInfo('top1', 'Accuracy'),
        MetricInfo('top5', 'Accuracy of the top 5'),
        MetricInfo('accuracy', 'Accuracy'),
        MetricInfo('precision', 'Precision, mean of classes'),
        MetricInfo('recall', 'Sensitivity, mean of classes'),
        MetricInfo('f1-score', 'F1, mean of classes'),
        MetricInfo('mAP', 'Average precision, mean of classes'),
        MetricInfo('AP', 'AP'),
        MetricInfo('AP50', 'AP50'),
        MetricInfo('bbox_mAP', 'AP', FRACTION),
        MetricInfo('bbox_mAP_50', 'AP50', FRACTION),
        MetricInfo('bbox_mAP_75', 'AP75', FRACTION),
        MetricInfo('bbox_mAP_s', 'AP of small objects', FRACTION),
        MetricInfo('bbox_mAP_m', 'AP of medium objects', FRACTION),
        MetricInfo('bbox_mAP_l', 'AP of large objects', FRACTION),
        MetricInfo('pascal_voc/mAP', 'AP, Pascal VOC', FRACTION),
        MetricInfo('pascal_voc/AP50', 'AP50, Pascal VOC', FRACTION),
        MetricInfo('HD95', 'Hausdorff distance, 95 %', MM, False),
        MetricInfo('ASD', 'Average surface distance', MM, False),
        MetricInfo('NSD', 'Surface Dice'),
        MetricInfo('HD95px', 'Hausdorff distance in pixels, 95 %', PX, False),
        MetricInfo('ASDpx', 'Average surface distance in pixels', PX, False),
        MetricInfo('NSDpx', 'Surface Dice, tolerance in pixels'),
        MetricInfo('volume_error', 'Volume error', PERCENT, False),
        MetricInfo('volume_difference', 'Volume difference', ML, False),
        MetricInfo('lesion_sensitivity', 'Sensitivity to lesions'),
        MetricInfo('false_positives', 'False positive lesions per case', NUMBER, False),
        MetricInfo('AUROC', 'Area under the ROC curve'),
        MetricInfo('AUPRC', 'Average precision of scores'),
        MetricInfo('sensitivity_at_95', 'Sensitivity at 95 % specificity'),
        MetricInfo('balanced_accuracy', 'Balanced accuracy'),
        MetricInfo('Brier', 'Brier score', FRACTION, False),
        MetricInfo('sensitivity', 'Sensitivity'),
        MetricInfo('specificity', 'Specificity'),
        MetricInfo('fidelity/accuracy', 'Agreement with the teacher'),
        MetricInfo('fidelity/agreement', 'Agreement with the teacher, pixels'),
        MetricInfo('fidelity/IoU', "IoU with the teacher's masks"),
        MetricInfo('fidelity/F1', "F1 with the teacher's masks"),
        MetricInfo('fidelity/AP50', "AP50 with the teacher's boxes"),
        MetricInfo('fidelity/box_agreement', 'Agreement with the teacher, boxes'),
        MetricInfo('fidelity/KL', 'KL divergence from the teacher', NATS, False),
        MetricInfo('diversity/disagreement', 'Disagreement of the students', PERCENT, None),
        MetricInfo(
            'diversity/error_correlation', 'Error correlation of the students', CORRELATION, None
        ),
        MetricInfo('calibration/ECE', 'Expected calibration error', FRACTION, False),
        MetricInfo(
            'calibration/ECE_near_foreground',
            'Expected calibration error near the foreground',
            FRACTION,
            False,
        ),
        MetricInfo('calibration/D-ECE', 'Expected calibration error of boxes', FRACTION, False),
        MetricInfo('loss', 'Loss', '', False),
    )
}
#: Groups of metrics that do not compare predictions with the truth, with their titles. Names in
#: other groups are unique without the group.
AUXILIARY_GROUPS = {
    'calibration': 'Calibration',
    'fidelity': 'Agreement with the teacher',
    'diversity': 'Diversity of the students',
}
_WITH_CLASS = re.compile(
    r'(IoU|F1|AUROC|AUPRC|Brier|precision|sensitivity_at_95|sensitivity|specificity'
    r'|Dice|HD95|ASD|NSD|HD95px|ASDpx|NSDpx|volume_error|volume_difference|lesion_sensitivity'
    r'|false_positives)_(.+)'
)
_OF_COCO_CLASS = re.compile(r'(?:.*/)?coco/([^/]+)_precision')  # of mmdet
_WITH_PAIR = re.compile(r'(diversity/(?:disagreement|error_correlation))_(.+)')


def metric_info(key: str) -> MetricInfo | None:
    """Describe a metric, or return None if it is unknown.

    Args:
        key: Key of an evaluator with or without the member and group, e.g.
            ``'student_1/calibration/ECE'``, ``'foreground/IoU'``, ``'IoU'`` or
            ``'ensemble/per_class/sensitivity_melanoma'``.
    """
    *groups, last = key.split('/')
    name = last
    if groups:
        with_group = f'{groups[-1]}/{last}'
        if groups[-1] in AUXILIARY_GROUPS or with_group in METRIC_INFOS:
            name = with_group
    if name in METRIC_INFOS:
        return METRIC_INFOS[name]
    if found := _WITH_CLASS.fullmatch(name):
        info = METRIC_INFOS[found[1]]
        # Short names need no title: "IoU of tumor".
        title = info.title if '_' in found[1] else _capitalized(found[1])
        return replace(info, title=f'{title} of {found[2]}')
    if found := _OF_COCO_CLASS.fullmatch(key):
        return replace(METRIC_INFOS['bbox_mAP'], title=f'AP of {found[1]}')
    if found := _WITH_PAIR.fullmatch(name):
        info = METRIC_INFOS[found[1]]
        return replace(info, title=f'{info.title}: {found[2]}')
    return None


def class_of_metric(key: str) -> tuple[str, str] | None:
    """Split the last part of a metric of one class, ``IoU_tumor``, into metric and class."""
    if found := _OF_COCO_CLASS.fullmatch(key):
        return 'AP', found[1]
    found = _WITH_CLASS.fullmatch(key.rpartition('/')[2])
    return (found[1], found[2]) if found else None


def unit_of(key: str) -> str:
    """Return the unit of a metric, see :class:`MetricInfo`; empty if the metric is unknown."""
    info = metric_info(key)
    return info.unit if info else ''


def _capitalized(name: str) -> str:
    return name[:1].upper() + name[1:]
