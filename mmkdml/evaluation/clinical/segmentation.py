"""Clinical metrics of masks, per case in the volume."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from mmengine.dist import all_gather_object, get_dist_info
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmkdml.evaluation.clinical.open_case import OpenCase
from mmkdml.evaluation.clinical.volume_scores import Conventions, volume_scores
from mmkdml.evaluation.foreground import checked_labels, foreground_classes, nan_mean
from mmkdml.evaluation.member_metrics import member_views
from mmkdml.functional.checks import check_at_least, check_choice, check_fraction
from mmkdml.names import CASE_VALUES, DISTANCES, PIXELS
from mmkdml.optional import check_extra
from mmkdml.registry import METRICS

_KEYS = ['member', 'id', 'group', 'label']


@METRICS.register_module()
class ClinicalSegmentation(BaseMetric):
    """Overlap, surface distances, volumes and lesions of each case, for each member and ensemble.

    A case is a volume, whose slices have ``case``, ``slice`` (0 to ``slices`` - 1), ``slices`` and
    ``spacing`` (of slice axis, rows and columns, in mm) in their metainfo and arrive in any order
    and in any process, or an image without ``case``. Its classes are scored in 3-D or 2-D. Keys are
    ``<name>/clinical/<measure>``, means over the cases, then over the foreground classes, and
    ``<name>/per_class/<measure>_<class>`` if there are several:

    - ``Dice`` and ``IoU`` in percent;
    - ``HD95``, the 95 % Hausdorff distance, and ``ASD``, the average symmetric surface distance,
      in mm;
    - ``NSD``, the normalized surface Dice, in percent: the share of both surfaces that is at most
      ``tolerance`` away from the other one;
    - ``volume_error``, the absolute error of the volume in percent of the true volume, and
      ``volume_difference``, in ml, only of volumes;
    - ``lesion_sensitivity``, the percentage of true lesions that are found, and
      ``false_positives``, the number of predicted lesions without a true one. Lesions are connected
      components; diagonal neighbors are connected.

    **Without spacing**, distances and tolerance are in pixels (voxels), the keys are ``HD95px``,
    ``ASDpx`` and ``NSDpx``, and there is no ``volume_difference``. Either all cases have a spacing
    or none.

    **Empty masks.** A class that a case has neither in truth nor prediction is skipped, as in
    nnU-Net, or is perfect, as in BraTS, with ``empty='perfect'``; its predicted lesions (none) and
    volume difference (0) always count. If only one of both masks has the class, Dice, IoU and NSD
    are 0, and the distances are the diagonal of the case, as in BraTS; skipping them with
    ``missing='skip'`` favors members that predict nothing. A warning states their number. The
    volume error in percent and the sensitivity are undefined, and skipped, without a true mask.

    Ignored elements are background in truth and prediction.

    After the evaluation :attr:`table` contains the values of each case, see :func:`clinical_cases`.

    Args:
        tolerance: Tolerance of the surface Dice in mm, or in pixels without spacing; a number, or a
            dict by foreground class. Use the variation between readers.
        overlap: Share of a lesion that the other mask must cover, in [0, 1]. Default: one element.
        empty: ``'skip'`` or ``'perfect'``, see above.
        missing: ``'diagonal'`` or ``'skip'``, see above.
        ignore_index: Label of elements that are ignored.
        collect_device: See mmengine's ``BaseMetric``; not used.

    Raises:
        ValueError: If an argument is invalid; in ``process`` if truth, prediction or metainfo are
            missing or invalid; in ``evaluate`` if slices of a case are missing, or only some cases
            have a spacing.

    Example:
        >>> from mmkdml.evaluation import ClinicalSegmentation
        >>> test_evaluator = [dict(type=ClinicalSegmentation, tolerance=1.0)]
    """

    default_prefix = ''  # keys begin with the member's name

    def __init__(
        self,
        tolerance: float | Mapping[str, float] = 1.0,
        overlap: float = 0.0,
        empty: str = 'skip',
        missing: str = 'diagonal',
        ignore_index: int = 255,
        collect_device: str = 'cpu',
    ) -> None:
        super().__init__(collect_device=collect_device)
        check_extra('scipy', extra='medical', purpose='ClinicalSegmentation')
        for value in tolerance.values() if isinstance(tolerance, Mapping) else (tolerance,):
            check_at_least('tolerance', value, 0)
        check_fraction('overlap', overlap)
        check_choice('empty', empty, ('skip', 'perfect'))
        check_choice('missing', missing, ('diagonal', 'skip'))
        self.tolerance, self.overlap, self.empty, self.missing = tolerance, overlap, empty, missing
        self.ignore_index = ignore_index
        self.table = pd.DataFrame()
        self._open: dict[str, OpenCase] = {}
        self._finished: dict[str, list[dict[str, Any]]] = {}

    def process(self, data_batch: Any, data_samples: Sequence[Any]) -> None:
        """Add N samples, as returned by ``predict``, and score the cases that are complete."""
        for sample in data_samples:
            views = member_views(sample)
            case, index = _case_of(next(iter(views.values())), tuple(views))
            if case.name in self._finished:  # padding of the sampler
                continue
            truth, masks = self._masks(views)
            case.shape = truth.shape
            if case.name in self._open:
                case = self._open[case.name].merge(case)
            self._open[case.name] = case
            case.add(index, truth, masks)
            if not case.missing:
                self._finished[case.name] = self._score(self._open.pop(case.name))

    def evaluate(self, size: int) -> dict[str, float]:
        """Gather the cases of all processes, score those that were divided among them, and reset.

        Returns:
            The metrics, equal in all processes; empty if there were no samples.
        """
        parts = all_gather_object((self._finished, self._open))
        self._finished, self._open = {}, {}
        finished: dict[str, list[dict[str, Any]]] = {}
        divided: dict[str, OpenCase] = {}
        for rows, _ in parts:
            finished |= rows
        for _, cases in parts:
            for name, case in cases.items():
                if name not in finished:
                    divided[name] = divided[name].merge(case) if name in divided else case
        for name, case in divided.items():
            if missing := case.missing:
                raise ValueError(
                    f'Invalid case {name}: expected all of its {case.slices} slices, got '
                    f'{(case.slices or 1) - len(missing)}; missing are {_shortened(missing)}. '
                    'Evaluate complete volumes: keep slices without foreground in val and test'
                )
        # Each process scores a part of the cases.
        rank, processes = get_dist_info()
        own = {name: self._score(divided[name]) for name in sorted(divided)[rank::processes]}
        for part in all_gather_object(own):
            finished |= part
        return self.compute_metrics([row for name in sorted(finished) for row in finished[name]])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the means from the rows of all cases, and set :attr:`table`."""
        self.table = pd.DataFrame(results)
        if not results:
            return {}
        measures = [one for one in CASE_VALUES if one in self.table]
        if {'HD95', f'HD95{PIXELS}'} <= set(measures):
            number = len({row['id'] for row in results if 'HD95' not in row})
            first = next(row['id'] for row in results if 'HD95' not in row)
            raise ValueError(
                f'Invalid spacing: expected one for all cases or for none, got {number} cases '
                f'without it, such as {first}. Add spacing to their metainfo'
            )
        names = foreground_classes(self.dataset_meta)
        metrics = {}
        for member, rows in self.table.groupby('member', sort=False):
            for measure in measures:
                by_label = rows.groupby('label')[measure]
                means = np.array([nan_mean(values.to_numpy()) for _, values in by_label])
                key = measure.removeprefix('case_')
                metrics[f'{member}/clinical/{key}'] = nan_mean(means)
                if len(names) > 1:
                    for name, mean in zip(names, means, strict=True):
                        metrics[f'{member}/per_class/{key}_{name}'] = float(mean)
        self._warn_of_missing()
        order = [*_KEYS, *measures]
        self.table = self.table[order].sort_values(['member', 'id', 'label'], ignore_index=True)
        return metrics

    def _masks(self, views: Mapping[str, dict]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        number = len(foreground_classes(self.dataset_meta)) + 1
        if number > 255:
            raise ValueError(f'Invalid classes: expected at most 255, got {number}')
        masks: dict[str, np.ndarray] = {}
        for name, view in views.items():
            pred, truth = checked_labels(view, number, self.ignore_index)
            counted = truth != self.ignore_index
            # uint8 on the device: copies are an eighth
            masks[name] = (pred * counted).byte().cpu().numpy()
        return (truth * counted).byte().cpu().numpy(), masks

    def _score(self, case: OpenCase) -> list[dict[str, Any]]:
        names = foreground_classes(self.dataset_meta)
        tolerance = self.tolerance
        if not isinstance(tolerance, Mapping):
            tolerance = dict.fromkeys(names, tolerance)
        elif set(tolerance) != set(names):
            raise ValueError(
                f'Invalid tolerance: expected a number for each of {list(names)}, got '
                f'{dict(tolerance)}'
            )
        tolerances = [tolerance[name] for name in names]
        conventions = Conventions(tolerances, self.overlap, self.empty, self.missing)
        truth, rows = case.truth(), []
        for member in case.members:
            spacing = case.spacing or (1.0,) * truth.ndim
            found = volume_scores(case.prediction(member), truth, spacing, conventions)
            for label, values in enumerate(found, start=1):
                if case.spacing is None or truth.ndim == 2:
                    del values['volume_difference']
                if case.spacing is None:
                    values |= {f'{one}{PIXELS}': values.pop(one) for one in DISTANCES}
                rows.append(
                    dict(member=member, id=case.name, group=case.group, label=label, **values)
                )
        return rows

    def _warn_of_missing(self) -> None:
        for member, rows in self.table.groupby('member', sort=False):
            if number := int(rows['one_sided'].sum()):
                use = 'the diagonal of the case' if self.missing == 'diagonal' else 'skipped'
                print_log(
                    f'{member}: {number} of {len(rows)} masks (case and class) are empty in only '
                    f'one of truth and prediction; their HD95 and ASD are {use}',
                    logger='current',
                    level=logging.WARNING,
                )


def clinical_cases(cases: pd.DataFrame, metrics: Sequence[BaseMetric]) -> pd.DataFrame:
    """Add the values of :class:`ClinicalSegmentation` to a case table.

    Args:
        cases: Table of a :class:`~mmkdml.evaluation.CaseTable` of the same evaluation.
        metrics: Metrics of the evaluation.

    Returns:
        The table with a column for each measure, see
        :data:`mmkdml.names.CASE_VALUES`; unchanged if there is no such metric.
    """
    for metric in metrics:
        if isinstance(metric, ClinicalSegmentation) and len(metric.table):
            cases = cases.merge(metric.table, on=_KEYS, how='left', validate='one_to_one')
    return cases


def _case_of(view: Mapping[str, Any], members: tuple[str, ...]) -> tuple[OpenCase, int]:
    """Return an empty case and the index of the slice from a sample's metainfo."""
    name = view.get('case', view.get('id', view.get('img_path')))
    if name is None:
        raise ValueError(
            f'expected id or img_path, or case, in each sample, got {sorted(view)}. Add them to '
            "meta_keys of the pipeline's Pack transform"
        )
    group, slices, index = str(view.get('group', name)), None, 0
    if 'case' in view:
        if not {'slice', 'slices'} <= set(view):
            raise ValueError(
                f'Invalid case {name}: expected slice and slices next to case, got {sorted(view)}. '
                "Add them to meta_keys of the pipeline's Pack transform"
            )
        slices, index = int(view['slices']), int(view['slice'])
        if not 0 <= index < slices:
            raise ValueError(
                f'Invalid slice of case {name}: expected 0 to {slices - 1} of {slices}, got {index}'
            )
    spacing, axes = view.get('spacing'), 2 + (slices is not None)
    if spacing is not None:
        spacing = tuple(map(float, spacing))
        if len(spacing) != axes or not all(0 < one < float('inf') for one in spacing):
            raise ValueError(
                f'Invalid spacing of case {name}: expected {axes} finite numbers above 0 (mm), got '
                f'{spacing}. Correct the header of the image, or remove spacing for pixels'
            )
    return OpenCase(str(name), group, slices, spacing, (0, 0), members), index


def _shortened(numbers: Sequence[int]) -> str:
    return ', '.join(map(str, numbers[:5])) + (', ...' if len(numbers) > 5 else '')
