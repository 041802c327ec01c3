"""Metrics of any framework for every member and the ensemble, in one pass."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from logging import LogRecord
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement

from mmkdml.evaluation.boxes.coco import prints_to_log, report_zero_if_nothing_found
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.registry import METRICS

# Fields that models of the frameworks add; all others are ground truth or metainfo.
_PREDICTION_FIELDS = ('pred_', 'seg_logits')


def members_in_order(members: Mapping[str, Any] | BaseDataElement) -> dict[str, Any]:
    """Return the members of a sample sorted by name: teachers first, and ``s_2`` before ``s_10``.

    A ``BaseDataElement`` stores its fields in a set, whose order differs between processes.
    """

    def key(item: tuple[str, Any]) -> tuple[bool, list[tuple[int, str]]]:
        parts = re.findall(r'\d+|\D+', item[0])
        return not item[0].startswith(TEACHER), [
            (int(part), '') if part.isdigit() else (-1, part) for part in parts
        ]

    return dict(sorted(members.items(), key=key))


@METRICS.register_module()
class MemberMetrics(BaseMetric):
    """Compute metrics for each member and the ensemble in one evaluation pass.

    The name of the member is prepended to the metric's keys: ``teacher/accuracy/top1``,
    ``student_1/accuracy/top1``, ``ensemble/accuracy/top1``. A model without members is reported as
    ``model``. Each name has a separate copy of the metrics, so that the values equal those of
    evaluating each member separately, also with several processes. The log output of a metric (such
    as mmseg's table of classes) begins with the name; what it prints is logged, too. mmdet's
    ``CocoMetric``, which reports no values if nothing is found, reports 0.

    Args:
        metric: Metric of any framework, built or as a config, or a list of them.
        include: Names to report, such as ``('ensemble',)``. Default: all.

    Raises:
        TypeError: If ``metric`` or ``include`` has another type.
        ValueError: If ``metric`` or ``include`` is empty; in ``process`` if a name in ``include``
            does not exist, samples have different members, or a member is called ``ensemble``; in
            ``evaluate`` if members differ between processes.

    Example:
        >>> from mmengine.hooks import CheckpointHook
        >>> from mmpretrain.evaluation import Accuracy
        >>> from mmkdml.evaluation import MemberMetrics
        >>> val_evaluator = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> checkpoint = dict(type=CheckpointHook, save_best='ensemble/accuracy/top1')
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(
        self,
        metric: dict | BaseMetric | Sequence[dict | BaseMetric],
        include: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        metrics: list[Any] = list(metric) if isinstance(metric, (list, tuple)) else [metric]
        for one in metrics:
            if not isinstance(one, (dict, BaseMetric)):
                raise TypeError(
                    'Invalid metric: expected a config (dict), a BaseMetric or a list of these, '
                    f'got {type(one).__name__}: {one!r}'
                )
        if isinstance(include, str):
            raise TypeError(
                f'Invalid include: expected a sequence of names, got a string. Write ({include!r},)'
            )
        if not metrics or (include is not None and not include):
            raise ValueError(
                'Invalid metric or include: expected at least one of each, got '
                f'metric={metric!r}, include={include!r}'
            )
        self.include = None if include is None else tuple(include)
        # Built here to raise errors before training; copied for each name.
        with prints_to_log():
            self._metrics = [
                METRICS.build(one) if isinstance(one, dict) else one for one in metrics
            ]
        self._names: tuple[str, ...] = ()
        self._evaluators: dict[str, Evaluator] = {}

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the data set, shared by all members."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        self._dataset_meta = dataset_meta
        for metric in self._metrics:
            metric.dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Pass each member's view of N samples, as returned by ``predict``, to its metrics."""
        views = [member_views(sample) for sample in data_samples]
        for view in views:
            if not self._names:
                unknown = sorted(set(self.include or ()) - set(view))
                if unknown:
                    raise ValueError(
                        f'Invalid include: expected some of {list(view)}, got {unknown}'
                    )
                self._names = tuple(view)
            if tuple(view) != self._names:
                raise ValueError(
                    'expected the same members in all samples of an evaluation, got '
                    f'{list(self._names)} and {list(view)}'
                )
        if views and not self._evaluators:
            self._evaluators = {name: self._new_evaluator() for name in self._reported()}
        for name, evaluator in self._evaluators.items():
            evaluator.process([view[name] for view in views], data_batch)

    def evaluate(self, size: int) -> dict:
        """Gather the results of all processes, compute the metrics and reset.

        Returns:
            ``{'<name>/<key of the metric>': value}``, members first, then the ensemble; equal in
            all processes. Empty if there were no samples.
        """
        # evaluate() of a metric is collective: a process without samples must take part, with the
        # same names in the same order.
        seen = {names for names in all_gather_object(self._names) if names}
        if len(seen) > 1:
            raise ValueError(f'expected the same members in every process, got {sorted(seen)}')
        self._names = seen.pop() if seen else ()
        metrics = {}
        for name in self._reported():
            evaluator = self._evaluators.get(name) or self._new_evaluator()
            with _named_log(name), prints_to_log():
                values = evaluator.evaluate(size)
            metrics.update({f'{name}/{key}': value for key, value in values.items()})
        self._names, self._evaluators = (), {}
        return metrics

    def compute_metrics(self, results: list) -> dict:
        """Raise NotImplementedError, because ``evaluate`` calls the metrics of each member."""
        raise NotImplementedError('MemberMetrics has no results: call evaluate()')

    def _new_evaluator(self) -> Evaluator:
        metrics = copy.deepcopy(self._metrics)
        for metric in metrics:
            report_zero_if_nothing_found(metric)
        return Evaluator(metrics)

    def _reported(self) -> list[str]:
        return [name for name in self._names if self.include is None or name in self.include]


def _as_dict(sample: Any) -> Any:
    return sample.to_dict() if isinstance(sample, BaseDataElement) else sample


def member_views(sample: Any) -> dict[str, dict]:
    """Return a dict per member: shared truth and metainfo, and the predictions of the member."""
    fields = dict(_as_dict(sample))
    members = fields.pop('members', None)
    if members is None:
        return {PLAIN: fields}
    members = members_in_order(members)
    if ENSEMBLE in members:
        raise ValueError(
            f'Invalid member name {ENSEMBLE!r}: it is reserved for the ensemble of the students, '
            f'got the members {list(members)}. Rename it'
        )
    # A member that lacks a field must not be evaluated with the ensemble's.
    shared = {k: v for k, v in fields.items() if not k.startswith(_PREDICTION_FIELDS)}
    views = {name: {**shared, **_as_dict(own)} for name, own in members.items()}
    return {**views, ENSEMBLE: fields}


@contextmanager
def _named_log(name: str) -> Iterator[None]:
    """Prepend ``[name]`` to log messages, because the tables of metrics do not name the member."""

    def head(record: LogRecord) -> bool:
        record.msg = f'[{name}] {record.msg}'
        return True

    logger = MMLogger.get_current_instance()
    logger.addFilter(head)
    try:
        yield
    finally:
        logger.removeFilter(head)
