"""Which images of a data set are hard, for one run or for several together."""

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

from mmkdml.evaluation.mask_panels import IGNORED
from mmkdml.evaluation.predictions import Predictions, predictions_by_name, truth_of
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import evaluating
from mmkdml.models.tasks import task_of
from mmkdml.names import ENSEMBLE, PLAIN

#: A model with its weights, on its device, and a loader of the images to look at.
Run = tuple[BaseModel, DataLoader]
SMALLEST, WORST, DISAGREEMENT = CRITERIA = ('smallest', 'worst', 'disagreement')
#: What cases are sorted by, and whether the lowest value comes first.
_ORDERS = {
    SMALLEST: dict(region=True, quality=True),
    WORST: dict(quality=True, region=False),
    DISAGREEMENT: dict(disagreement=False, quality=True),
}
_CASE = ['id', 'group']
_NAMED = 3  # ids in a message


def list_cases(dataset: Any) -> pd.DataFrame:
    """``id`` and ``group`` of each image, in the data set's order, without loading images.

    Args:
        dataset: Of mmengine's kind.

    Raises:
        ValueError: If it does not say them.
    """
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    for info in infos:
        if not {'id', 'group'} <= info.keys():
            raise ValueError(
                f'expected id and group of each image of {type(dataset).__name__}, got '
                f'{sorted(info)}; the data sets of mmkdml read them from a split file'
            )
    return pd.DataFrame([(str(one['id']), str(one['group'])) for one in infos], columns=_CASE)


def check_comparable(runs: Mapping[str, Run]) -> str:
    """Whether runs can be shown side by side; the task that they have in common.

    Args:
        runs: Model and loader of each, by its title.

    Raises:
        TypeError: If a model is of neither task.
        ValueError: If they are of different tasks, or on different images.
    """
    tasks, sets = {}, {}
    for title, (model, loader) in runs.items():
        known = isinstance(model, KnowledgeDistiller)
        tasks[title] = (model.task if known else task_of({PLAIN: model})).name
        sets[title] = set(list_cases(loader.dataset)['id'])
    if len(set(tasks.values())) > 1:
        raise ValueError(
            'expected runs of one task, got '
            + ', '.join(f'{title}: {task}' for title, task in tasks.items())
        )
    first = next(iter(runs))
    for title, ids in sets.items():
        if ids != sets[first]:
            raise ValueError(
                f'expected the same images in all runs, but {first} has {len(sets[first])}, '
                f'{title} has {len(ids)}, and only one of them has {_some(ids ^ sets[first])}; '
                'give all the same split file, such as by --cfg-options '
                'test_dataloader.dataset.ann_file=...'
            )
    return tasks[first]


def only_cases(loader: DataLoader, ids: Sequence[str]) -> DataLoader:
    """A loader of these cases alone, in this order.

    Args:
        loader: Of mmengine's kind of data set.
        ids: Of the cases.

    Raises:
        ValueError: If there are no such cases.
    """
    known = {one: position for position, one in enumerate(list_cases(loader.dataset)['id'])}
    unknown = [one for one in ids if one not in known]
    if unknown:
        raise ValueError(
            f'expected ids among the {len(known)} of the data set, such as {_some(known)}; got '
            f'{_some(unknown)}'
        )
    dataset: Any = loader.dataset
    subset = dataset.get_subset([known[one] for one in ids])
    return DataLoader(subset, loader.batch_size, collate_fn=loader.collate_fn)


def predict_batch(model: BaseModel, data: Any) -> tuple[Tensor, list[Any]]:
    """What the networks are shown of a batch, (N, 3, H, W), and the samples with all answers."""
    with evaluating(model):
        batch = model.data_preprocessor(data, False)
        return batch['inputs'], model(**batch, mode='predict')


def member_inputs(model: BaseModel, name: str, batch: Mapping[str, Any]) -> Tensor:
    """Return the images of a preprocessed batch in the normalization of one member.

    Args:
        model: A classroom, or a network, which uses the batch unchanged.
        name: The member's name.
        batch: ``inputs`` (N, 3, H, W) and their ``data_samples``.
    """
    if isinstance(model, KnowledgeDistiller):
        return model.inputs_of(name, batch['inputs'], batch.get('data_samples'))
    return batch['inputs']


def measure_cases(model: BaseModel, loader: DataLoader, title: str = 'Cases') -> pd.DataFrame:
    """What the members make of each image; only these numbers are kept, whatever the set's size.

    All classes behind the background count as one foreground.

    Args:
        model: A classroom, classifier or segmentor with its weights, on its device.
        loader: Of a data set with truth, in its order.
        title: Stands before the progress bar.

    Returns:
        A row for each image: ``id``, ``group`` and, for each member and the ensemble (or the
        ``model`` alone),

        - segmentation: ``<name>_IoU`` in percent, ``nan`` where truth and mask are empty;
          ``region``, the truth's pixels; ``disagreement``, the share of pixels that students label
          differently, in percent, as :class:`~mmkdml.evaluation.diversity.Diversity` has it;
        - classification: ``<name>_probability`` of the true class and ``<name>_label``; ``truth``;
          ``disagreement``, half the sum of what the students' probabilities differ by, in percent,
          for hardly any two images would differ in their labels' share.

        Disagreement is a mean over pairs of students; ``nan`` where there are no two.

    Raises:
        ValueError: If the data set does not say ids and groups, a sample has no truth, or an answer
            has another size.
    """
    students = model.student_names if isinstance(model, KnowledgeDistiller) else ()
    cases = list_cases(loader.dataset)
    console = Console(stderr=True)
    rows = [
        _numbers(sample, students)
        for data in track(loader, title, console=console, transient=True)
        for sample in predict_batch(model, data)[1]
    ]
    return pd.concat([cases, pd.DataFrame(rows)], axis=1)


def choose_cases(tables: Mapping[str, pd.DataFrame], by: str = WORST, num: int = 6) -> list[str]:
    """The hardest cases of all runs together, so that none is shown where it alone looks worst.

    - ``'smallest'``: the smallest regions that are not empty;
    - ``'worst'``: the lowest IoU of the ensemble (or of the model), in which an empty mask of an
      empty truth counts as 100; of equal ones, the larger region first, so that what was missed
      comes before false alarms. For classification the least probability of the true class;
    - ``'disagreement'``: where the students differ most.

    Measures are means over the runs that have them. Of what is equal, the lower ``id`` comes first.

    Args:
        tables: By run, as :func:`measure_cases` gives them, all of the same images.
        by: One of the three.
        num: How many at most.

    Returns:
        Their ids, the hardest first.

    Raises:
        ValueError: If ``by`` or ``num`` is none of these, or there is nothing to choose by.
    """
    if by not in CRITERIA or num < 1:
        raise ValueError(
            f'expected by among {", ".join(CRITERIA)} and num of 1 or more, got {by!r} and {num}'
        )
    cases = pd.concat([_hardness(table) for table in tables.values()]).groupby('id').mean()
    if by == SMALLEST:
        cases = cases[cases['region'] > 0]
    order = _ORDERS[by]
    cases = cases.dropna(subset=next(iter(order)))
    if cases.empty:
        raise ValueError(
            {
                SMALLEST: 'expected regions to choose the smallest of, but no image has one (as '
                'always in classification); choose by worst or disagreement',
                DISAGREEMENT: 'expected a run with two students or more, whose disagreement can be '
                'seen; choose by worst',
            }.get(by, 'expected images to choose from, got none')
        )
    ordered = cases.sort_values(list(order), ascending=list(order.values()), kind='stable')
    return ordered.index[:num].tolist()


def overlap(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """IoU and Dice of two boolean arrays of one shape, in percent; ``nan`` if both are empty."""
    both, total = (mask & truth).sum(), mask.sum() + truth.sum()
    if not total:
        return np.nan, np.nan
    return float(100 * both / (total - both)), float(200 * both / total)


def _some(ids: Iterable[str]) -> str:
    names = sorted(ids)
    return ', '.join(names[:_NAMED]) + (', ...' if len(names) > _NAMED else '')


def _numbers(sample: Any, students: Sequence[str]) -> dict[str, Any]:
    answers, truth = predictions_by_name(sample), truth_of(sample).cpu()
    answers = {
        name: own._replace(labels=own.labels.cpu(), probabilities=own.probabilities.cpu())
        for name, own in answers.items()
    }
    for name, own in answers.items():
        if len(own.labels) != len(truth):
            raise ValueError(
                f'expected an answer for each of the {len(truth)} pixels of the truth, got '
                f'{len(own.labels)} of {name}: Resize must come before the mask is loaded'
            )
    apart = [_apart(answers[a], answers[b]) for a, b in combinations(students, 2)]
    if next(iter(answers.values())).of_pixels:
        counted = truth != IGNORED
        region = ((truth > 0) & counted).numpy()
        numbers: dict[str, Any] = dict(region=int(region.sum()))
        for name, own in answers.items():
            numbers[f'{name}_IoU'] = overlap(((own.labels > 0) & counted).numpy(), region)[0]
        apart = [one[counted] for one in apart]
    else:
        numbers = dict(truth=int(truth))
        for name, own in answers.items():
            numbers[f'{name}_label'] = int(own.labels)
            numbers[f'{name}_probability'] = float(own.probabilities[0, truth])
    share = torch.cat(apart).double().mean() if apart else torch.nan
    return dict(numbers, disagreement=100 * float(share))


def _apart(a: Predictions, b: Predictions) -> Tensor:
    if a.of_pixels:
        return a.labels != b.labels
    return (a.probabilities - b.probabilities).abs().sum(dim=1) / 2


def _hardness(table: pd.DataFrame) -> pd.DataFrame:
    """What cases are chosen by, in one form for both tasks."""
    name = next(name for name in (ENSEMBLE, PLAIN) if any(c.startswith(name) for c in table))
    of_pixels = 'region' in table
    quality = table[f'{name}_IoU'].fillna(100) if of_pixels else table[f'{name}_probability']
    return pd.DataFrame(
        dict(
            id=table['id'],
            region=table['region'] if of_pixels else 0,
            quality=quality,
            disagreement=table['disagreement'],
        )
    )
