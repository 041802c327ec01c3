"""Any framework metric, for every member of the classroom and the ensemble, in one pass."""

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

from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.registry import METRICS

# What the frameworks' models add to a sample when they predict; all else is truth or metainfo.
_PREDICTION_FIELDS = ('pred_', 'seg_logits')


def members_in_order(members: Mapping[str, Any] | BaseDataElement) -> dict[str, Any]:
    """The members of one sample by name: teachers first, then by name, ``s_2`` before ``s_10``.

    A ``BaseDataElement`` keeps its fields in a set, whose order changes from process to process, so
    the order has to come from the names.

    Args:
        members: the field ``members`` of a data sample, as the distiller made it or as a dict.

    Returns:
        The same values in the order in which they are reported.
    """

    def key(item: tuple[str, Any]) -> tuple[bool, list[tuple[int, str]]]:
        parts = re.findall(r'\d+|\D+', item[0])
        return not item[0].startswith('teacher'), [
            (int(part), '') if part.isdigit() else (-1, part) for part in parts
        ]

    return dict(sorted(members.items(), key=key))


@METRICS.register_module()
class MemberMetrics(BaseMetric):
    """Computes metrics for each member and the ensemble in one evaluation pass.

    The keys are the metric's own behind the member's name: ``teacher/accuracy/top1``,
    ``student_1/accuracy/top1``, ``ensemble/accuracy/top1``. A model that is no distiller (its
    samples have no field ``members``) is reported under the one name ``model``. Each name has a
    copy of the metrics to itself, so the values are those of evaluating each member alone, also
    over several processes. What a metric prints (mmseg's table of classes) is headed by the name.

    Args:
        metric: a metric of any framework, as a config or built, or several of them.
        include: the names to report, such as ``('ensemble',)``. ``None`` reports all.

    Raises:
        TypeError: if ``metric`` or ``include`` is of another type.
        ValueError: if ``metric`` or ``include`` is empty; while processing, if a sample has no
            such name as ``include`` asks for, if samples differ in their members, or if a member
            is called ``ensemble``; at the end, if the processes saw different members.

    Example:
        >>> val_evaluator = dict(type=MemberMetrics, metric=dict(type=Accuracy))
        >>> checkpoint = dict(type=CheckpointHook, save_best='ensemble/accuracy/top1')
    """

    default_prefix = ''  # the members' names take its place

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
                    'metric must be a config (dict), a BaseMetric or a list of these, '
                    f'but got {type(one).__name__}: {one!r}'
                )
        if isinstance(include, str):
            raise TypeError(
                f'include must be a sequence of names, but got a string: write ({include!r},)'
            )
        if not metrics or (include is not None and not include):
            raise ValueError(
                'metric and include must name at least one each, but got '
                f'metric={metric!r}, include={include!r}'
            )
        self.include = None if include is None else tuple(include)
        # Built once, so that a mistake shows before training; copied for each name.
        self._metrics = [METRICS.build(one) if isinstance(one, dict) else one for one in metrics]
        self._names: tuple[str, ...] = ()
        self._evaluators: dict[str, Evaluator] = {}

    @property
    def dataset_meta(self) -> dict | None:
        """Metainfo of the data set, the same for every member."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict | None) -> None:
        self._dataset_meta = dataset_meta
        for metric in self._metrics:
            metric.dataset_meta = dataset_meta

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Hands each name its own view of the samples; the samples stay as they are.

        Args:
            data_batch: the batch of the data loader, passed on.
            data_samples: N data samples, or their dicts, as ``predict`` returned them.
        """
        views = [member_views(sample) for sample in data_samples]
        for view in views:
            self._names = self._names or self._checked(tuple(view))
            if tuple(view) != self._names:
                raise ValueError(
                    'all samples of an evaluation must have the same members, but after '
                    f'{list(self._names)} came a sample with {list(view)}'
                )
        if views and not self._evaluators:
            self._evaluators = {name: self._new_evaluator() for name in self._reported()}
        for name, evaluator in self._evaluators.items():
            evaluator.process([view[name] for view in views], data_batch)

    def evaluate(self, size: int) -> dict:
        """Collects over the processes, computes and starts anew.

        Args:
            size: number of samples in the data set; what a sampler padded beyond it is dropped.

        Returns:
            ``{'<name>/<key of the metric>': value}``, members first, the ensemble last; the same
            in every process. Empty if no process saw a sample.
        """
        # Each metric's own evaluate() is collective, so a process whose share of the data is
        # empty has to take part, under the same names in the same order.
        seen = {names for names in all_gather_object(self._names) if names}
        if len(seen) > 1:
            raise ValueError(f'every process must see the same members, but got {sorted(seen)}')
        self._names = seen.pop() if seen else ()
        metrics = {}
        for name in self._reported():
            evaluator = self._evaluators.get(name) or self._new_evaluator()
            with _named_log(name):
                values = evaluator.evaluate(size)
            metrics.update({f'{name}/{key}': value for key, value in values.items()})
        self._names, self._evaluators = (), {}
        return metrics

    def compute_metrics(self, results: list) -> dict:
        """Not in use: the metrics of each member compute for themselves, in ``evaluate``."""
        raise NotImplementedError('MemberMetrics has no results of its own: call evaluate()')

    def _new_evaluator(self) -> Evaluator:
        return Evaluator(copy.deepcopy(self._metrics))

    def _reported(self) -> list[str]:
        return [name for name in self._names if self.include is None or name in self.include]

    def _checked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = sorted(set(self.include or ()) - set(names))
        if unknown:
            raise ValueError(f'include names {unknown}, but this model has {list(names)}')
        return names


def _as_dict(sample: Any) -> Any:
    return sample.to_dict() if isinstance(sample, BaseDataElement) else sample


def member_views(sample: Any) -> dict[str, dict]:
    """One sample as each name sees it: the shared truth and metainfo with its own predictions."""
    whole = dict(_as_dict(sample))
    members = whole.pop('members', None)
    if members is None:
        return {PLAIN: whole}
    members = members_in_order(members)
    if ENSEMBLE in members:
        raise ValueError(
            f"a member cannot be called {ENSEMBLE!r}, the name of the students' "
            f'joint answer, but the members are {list(members)}: rename it'
        )
    # Without this a metric would silently score the ensemble where a member lacks a field.
    shared = {k: v for k, v in whole.items() if not k.startswith(_PREDICTION_FIELDS)}
    return {**{name: {**shared, **_as_dict(own)} for name, own in members.items()}, ENSEMBLE: whole}


@contextmanager
def _named_log(name: str) -> Iterator[None]:
    """Heads what is logged meanwhile with ``[name]``: a metric's table does not say whose it is."""

    def head(record: LogRecord) -> bool:
        record.msg = f'[{name}] {record.msg}'
        return True

    logger = MMLogger.get_current_instance()
    logger.addFilter(head)
    try:
        yield
    finally:
        logger.removeFilter(head)
