"""Selection of the hard cases of a data set, for one run or several runs together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from mmengine.model import BaseModel
from torch.utils.data import DataLoader

from mmkdml.analysis.case_measures import (
    CASE_COLUMNS,
    class_overlap,
    list_cases,
    measure_cases,
    member_inputs,
    overlap,
    predict_batch,
)
from mmkdml.evaluation.case_choice import choose_by_group
from mmkdml.inspection.config import inspect_model
from mmkdml.names import ENSEMBLE, PLAIN

__all__ = [
    'CRITERIA',
    'SELECTIONS',
    'check_comparable',
    'choose_cases',
    'class_overlap',
    'list_cases',
    'measure_cases',
    'member_inputs',
    'only_cases',
    'overlap',
    'predict_batch',
]

#: A model with its weights, on its device, and a loader of the images.
Run = tuple[BaseModel, DataLoader]
SMALLEST, WORST, DISAGREEMENT = CRITERIA = ('smallest', 'worst', 'disagreement')
#: Descriptions of the chosen cases.
SELECTIONS = {
    SMALLEST: 'smallest regions',
    WORST: 'worst predictions',
    DISAGREEMENT: 'largest disagreement of the students',
}
#: Columns to sort the cases by, with True for ascending order.
_ORDERS = {
    SMALLEST: dict(region=True, quality=True),
    WORST: dict(quality=True, region=False),
    DISAGREEMENT: dict(disagreement=False, quality=True),
}
#: Measures of a member by task, and the columns of the region's size.
_MEASURES = {'IoU': 'region_px', 'F1': 'smallest_px', 'probability': None}
_MAX_IDS = 3  # per message


def check_comparable(runs: Mapping[str, Run]) -> str:
    """Check that all runs have the same task and images, and return the name of the task.

    Args:
        runs: Model and loader of each run by its title.

    Raises:
        TypeError: If a model is neither a classifier, a segmentor nor a detector.
        ValueError: If the runs have different tasks or images.
    """
    tasks = {title: inspect_model(model).task for title, (model, _) in runs.items()}
    sets = {title: set(list_cases(loader.dataset)['id']) for title, (_, loader) in runs.items()}
    if len({(task.name, task.multi_label) for task in tasks.values()}) > 1:
        found = ', '.join(
            f'{title}: {"multi-label " * task.multi_label}{task.name}'
            for title, task in tasks.items()
        )
        raise ValueError(f'Invalid runs: expected one task, got {found}')
    first = next(iter(runs))
    for title, ids in sets.items():
        if ids != sets[first]:
            raise ValueError(
                f'Invalid runs: expected the same images, got {len(sets[first])} for {first} and '
                f'{len(ids)} for {title}; {_format_ids(ids ^ sets[first])} differ. Set the same '
                'split file with --cfg-options test_dataloader.dataset.ann_file=...'
            )
    return tasks[first].name


def only_cases(loader: DataLoader, ids: Sequence[str]) -> DataLoader:
    """Build a loader of only these cases, in this order.

    Args:
        loader: Loader of a data set with mmengine's interface.
        ids: Ids of the cases.

    Raises:
        ValueError: If a case does not exist.
    """
    known = {one: position for position, one in enumerate(list_cases(loader.dataset)['id'])}
    unknown = [one for one in ids if one not in known]
    if unknown:
        raise ValueError(
            f'Invalid ids: expected some of the {len(known)} in the data set, e.g. '
            f'{_format_ids(known)}, got {_format_ids(unknown)}'
        )
    dataset: Any = loader.dataset
    subset = dataset.get_subset([known[one] for one in ids])
    return DataLoader(subset, loader.batch_size, collate_fn=loader.collate_fn)


def choose_cases(
    tables: Mapping[str, pd.DataFrame], by: str = WORST, num: int = 6, repeat_groups: bool = False
) -> list[str]:
    """Choose the hardest cases over all runs together, so that no run is singled out.

    Each group (patient, lesion) contributes its hardest case; further ones are chosen only if there
    are fewer than ``num`` groups.

    - ``'smallest'``: the smallest non-empty regions, or images with the smallest true boxes;
    - ``'worst'``: the lowest IoU of the ensemble (or of the model), where an empty mask for an
      empty truth counts as 100; ties are broken by the larger region, so that misses come before
      false alarms. For detection F1 in place of IoU, for classification the lowest probability of
      the true class;
    - ``'disagreement'``: the largest disagreement of the students.

    Values are means over the runs that have them. Remaining ties are broken by ``id``.

    Args:
        tables: Results of :func:`measure_cases` by run, all for the same images.
        by: One of these criteria.
        num: Maximum number of cases, >= 1.
        repeat_groups: Choose the hardest cases regardless of their groups.

    Returns:
        Ids, the hardest first.

    Raises:
        ValueError: If ``by`` or ``num`` is invalid, or no case qualifies.
    """
    if by not in CRITERIA or num < 1:
        raise ValueError(
            f'Invalid by or num: expected one of {", ".join(CRITERIA)} and a number >= 1, got '
            f'{by!r} and {num}'
        )
    cases = pd.concat([_hardness(table) for table in tables.values()])
    cases = cases.groupby(CASE_COLUMNS).mean().reset_index('group')
    if by == SMALLEST:
        cases = cases[cases['region'] > 0]
    order = _ORDERS[by]
    cases = cases.dropna(subset=next(iter(order)))
    if cases.empty:
        raise ValueError(
            {
                SMALLEST: 'Invalid by=smallest: expected images with regions, got none (as always '
                'in classification). Use worst or disagreement',
                DISAGREEMENT: 'Invalid by=disagreement: expected a run with at least two students. '
                'Use worst',
            }.get(by, 'Invalid tables: expected at least one image, got none')
        )
    ordered = cases.sort_values(list(order), ascending=list(order.values()), kind='stable')
    if repeat_groups:
        return ordered.index[:num].tolist()
    return ordered.index[choose_by_group(ordered['group'].tolist(), num)].tolist()


def _format_ids(ids: Iterable[str]) -> str:
    names = sorted(ids)
    return ', '.join(names[:_MAX_IDS]) + (', ...' if len(names) > _MAX_IDS else '')


def _hardness(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns to sort cases by, in one form for all tasks."""
    name = next(name for name in (ENSEMBLE, PLAIN) if any(c.startswith(name) for c in table))
    measure = next(one for one in _MEASURES if f'{name}_{one}_percent' in table)
    quality = table[f'{name}_{measure}_percent']
    region = _MEASURES[measure]
    return pd.DataFrame(
        dict(
            id=table['id'],
            group=table['group'],
            region=table[region].fillna(0) if region else 0,
            quality=quality.fillna(100) if region else quality,
            disagreement=table['disagreement_percent'],
        )
    )
