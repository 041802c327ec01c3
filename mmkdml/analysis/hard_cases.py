"""Selection of the hard cases of a data set, for one run or several runs together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import torch
from mmengine.model import BaseModel
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from mmkdml.evaluation.case_choice import choose_by_group
from mmkdml.evaluation.mask_panels import IGNORED
from mmkdml.evaluation.predictions import Predictions, predictions_by_name, truth_of
from mmkdml.inspection.config import inspect_model
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import evaluating
from mmkdml.names import ENSEMBLE, PLAIN

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
_CASE = ['id', 'group']
_MAX_IDS = 3  # per message


def list_cases(dataset: Any) -> pd.DataFrame:
    """List ``id`` and ``group`` of each image in the order of the data set, without loading images.

    An image without a group is a group of its own.

    Args:
        dataset: Data set with mmengine's interface.

    Raises:
        ValueError: If images have no id.
    """
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for info in infos:
        if 'id' not in info:
            raise ValueError(
                f'Invalid data set {type(dataset).__name__}: expected the id of each image, got '
                f'{sorted(info)}. Use a data set of mmkdml, which reads it from the split file'
            )
    return pd.DataFrame(
        [(str(one['id']), str(one.get('group') or one['id'])) for one in infos], columns=_CASE
    )


def check_comparable(runs: Mapping[str, Run]) -> str:
    """Check that all runs have the same task and images, and return the name of the task.

    Args:
        runs: Model and loader of each run by its title.

    Raises:
        TypeError: If a model is neither a classifier nor a segmentor.
        ValueError: If the runs have different tasks or images.
    """
    tasks = {title: inspect_model(model).task.name for title, (model, _) in runs.items()}
    sets = {title: set(list_cases(loader.dataset)['id']) for title, (_, loader) in runs.items()}
    if len(set(tasks.values())) > 1:
        found = ', '.join(f'{title}: {task}' for title, task in tasks.items())
        raise ValueError(f'Invalid runs: expected one task, got {found}')
    first = next(iter(runs))
    for title, ids in sets.items():
        if ids != sets[first]:
            raise ValueError(
                f'Invalid runs: expected the same images, got {len(sets[first])} for {first} and '
                f'{len(ids)} for {title}; {_format_ids(ids ^ sets[first])} differ. Set the same '
                'split file with --cfg-options test_dataloader.dataset.ann_file=...'
            )
    return tasks[first]


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


def predict_batch(model: BaseModel, data: Any) -> tuple[Tensor, list[Any]]:
    """Predict a batch. Return the preprocessed inputs (N, 3, H, W) and the predicted samples."""
    with evaluating(model):
        batch = model.data_preprocessor(data, False)
        return batch['inputs'], model(**batch, mode='predict')


def member_inputs(model: BaseModel, name: str, batch: Mapping[str, Any]) -> Tensor:
    """Return the images of a preprocessed batch in the normalization of one member.

    Args:
        model: A classroom, or a single network, whose batch is returned unchanged.
        name: Name of the member.
        batch: Preprocessed ``inputs`` (N, 3, H, W) and their ``data_samples``.
    """
    if isinstance(model, KnowledgeDistiller):
        return model.inputs_of(name, batch['inputs'], batch.get('data_samples'))
    return batch['inputs']


def measure_cases(model: BaseModel, loader: DataLoader, title: str = 'Cases') -> pd.DataFrame:
    """Compute the metrics of each image for every member.

    Only these numbers are kept in memory. All foreground classes count as one.

    Args:
        model: Classroom, classifier or segmentor with its weights, on its device.
        loader: Unshuffled loader of a data set with ground truth.
        title: Label of the progress bar.

    Returns:
        A row for each image: ``id``, ``group`` and, for each member and the ensemble (or only for
        ``model``),

        - segmentation: ``region_px``, the number of true foreground pixels; ``<name>_IoU_percent``,
          ``nan`` where both masks are empty; ``disagreement_percent``, the share of pixels that
          students label differently, see :class:`~mmkdml.evaluation.diversity.Diversity`;
        - classification: the classes ``truth`` and ``<name>_label``, by name if the data set knows
          their names; ``<name>_probability_percent`` of the true class; ``disagreement_percent``,
          half the L1 distance of the students' probabilities, which ranks images more finely than
          whether their labels differ.

        Disagreement is a mean over pairs of students; ``nan`` with fewer than two students.

    Raises:
        ValueError: If images have no id, a sample has no ground truth, or a prediction
            differs from it in size.
    """
    students = model.student_names if isinstance(model, KnowledgeDistiller) else ()
    cases = list_cases(loader.dataset)
    classes = getattr(loader.dataset, 'metainfo', {}).get('classes')
    batches = track(loader, title, console=Console(stderr=True), transient=True)
    rows = [
        _measure(sample, students, classes)
        for data in batches
        for sample in predict_batch(model, data)[1]
    ]
    return pd.concat([cases, pd.DataFrame(rows)], axis=1)


def choose_cases(
    tables: Mapping[str, pd.DataFrame], by: str = WORST, num: int = 6, repeat_groups: bool = False
) -> list[str]:
    """Choose the hardest cases over all runs together, so that no run is singled out.

    Each group (patient, lesion) contributes its hardest case; further ones are chosen only if there
    are fewer than ``num`` groups.

    - ``'smallest'``: the smallest non-empty regions;
    - ``'worst'``: the lowest IoU of the ensemble (or of the model), where an empty mask for an
      empty truth counts as 100; ties are broken by the larger region, so that misses come before
      false alarms. For classification the lowest probability of the true class;
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
    cases = cases.groupby(_CASE).mean().reset_index('group')
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


def overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Compute IoU and Dice of two boolean masks in percent; ``nan`` if both are empty."""
    both, total = (mask & truth).sum(), mask.sum() + truth.sum()
    if not total:
        return np.nan, np.nan
    return float(100 * both / (total - both)), float(200 * both / total)


def _format_ids(ids: Iterable[str]) -> str:
    names = sorted(ids)
    return ', '.join(names[:_MAX_IDS]) + (', ...' if len(names) > _MAX_IDS else '')


def _measure(
    sample: Any, students: Sequence[str], classes: Sequence[str] | None = None
) -> dict[str, Any]:
    truth = truth_of(sample).cpu()
    predictions = {
        name: own._replace(labels=own.labels.cpu(), probabilities=own.probabilities.cpu())
        for name, own in predictions_by_name(sample).items()
    }
    for name, own in predictions.items():
        if len(own.labels) != len(truth):
            raise ValueError(
                f'Invalid prediction of {name}: expected {len(truth)} pixels as in the true mask, '
                f'got {len(own.labels)}. Move Resize before the mask is loaded'
            )
    pairs = combinations(students, 2)
    differences = [_difference(predictions[a], predictions[b]) for a, b in pairs]
    if next(iter(predictions.values())).of_pixels:
        counted = truth != IGNORED
        region = ((truth > 0) & counted).numpy()
        numbers: dict[str, Any] = dict(region_px=int(region.sum()))
        for name, own in predictions.items():
            mask = ((own.labels > 0) & counted).numpy()
            numbers[f'{name}_IoU_percent'] = overlap(mask, region)[0]
        differences = [one[counted] for one in differences]
    else:
        numbers = dict(truth=_class_name(truth, classes))
        for name, own in predictions.items():
            numbers[f'{name}_label'] = _class_name(own.labels, classes)
            numbers[f'{name}_probability_percent'] = 100 * float(own.probabilities[0, truth])
    share = torch.cat(differences).double().mean() if differences else torch.nan
    return dict(numbers, disagreement_percent=100 * float(share))


def _class_name(label: Tensor, classes: Sequence[str] | None) -> str | int:
    return classes[int(label)] if classes else int(label)


def _difference(a: Predictions, b: Predictions) -> Tensor:
    if a.of_pixels:
        return a.labels != b.labels
    return (a.probabilities - b.probabilities).abs().sum(dim=1) / 2


def _hardness(table: pd.DataFrame) -> pd.DataFrame:
    """Return the columns to sort cases by, in one form for both tasks."""
    name = next(name for name in (ENSEMBLE, PLAIN) if any(c.startswith(name) for c in table))
    of_pixels = 'region_px' in table
    quality = table[f'{name}_{"IoU" if of_pixels else "probability"}_percent']
    return pd.DataFrame(
        dict(
            id=table['id'],
            group=table['group'],
            region=table['region_px'] if of_pixels else 0,
            quality=quality.fillna(100) if of_pixels else quality,
            disagreement=table['disagreement_percent'],
        )
    )
