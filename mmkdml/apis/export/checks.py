"""Whether an export answers as the framework does, how well and how fast."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import PixelData

from mmkdml.apis.export.graph import Answers
from mmkdml.apis.export.source import Source
from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.evaluation import CaseTable
from mmkdml.inspection.config import use_default_scope
from mmkdml.models.ensembles import decide, vote_ensemble
from mmkdml.profiling import elapsed_seconds, interleaved_medians
from mmkdml.registry import DATASETS

TOLERANCE = 1e-4
#: Labels that may differ, for a probability can lie at the threshold but for rounding.
SHARE_OF_TIES = 1e-4
_BATCH = 8


@dataclass(frozen=True)
class Agreement:
    """How far an export is from the framework's own predictions.

    Attributes:
        images: Number of images compared.
        max_difference: Largest difference of a score.
        other_labels: Share of labels that differ, in [0, 1].
    """

    images: int
    max_difference: float
    other_labels: float


def framework_answers(source: Source) -> Answers:
    """The answers of the framework's own ``predict``, preprocessing and ensemble."""
    task = source.inspection.task

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        networks = list(source.members.values())
        predictions = []
        for name, network in source.members.items():
            batch = dict(
                inputs=list(torch.from_numpy(images).flip(1)),  # BGR, as mmcv reads them
                data_samples=task.dummy_samples(len(images), images.shape[2:]),
            )
            data = source.preprocessor_of(name)(batch, False)
            with torch.inference_mode():
                predictions.append(task.predict(network, data['inputs'], data['data_samples']))
        with torch.inference_mode():
            samples: Any = task.combine(networks, predictions, source.ensemble, None)
        if source.segments:
            scores = [sample.seg_logits.data for sample in samples]
            labels = [sample.pred_sem_seg.data for sample in samples]
        else:
            scores = [sample.pred_score for sample in samples]
            labels = [sample.pred_label for sample in samples]
        return torch.stack(scores).numpy(), torch.cat(labels).numpy()

    return answer


def compare(answers: Answers, source: Source, images: Iterable[np.ndarray]) -> Agreement:
    """Holds an export against the framework.

    Args:
        answers: Of the exported file.
        source: What it was made from.
        images: RGB, each (3, H, W), uint8.

    Raises:
        ValueError: If there is no image, a score differs by more than 1e-4, or more than one label
            in 10,000 differs. Votes are counted like labels: they jump at a threshold, too.
    """
    reference = framework_answers(source)
    number, largest, off, other = 0, 0.0, [], []
    for batch in _batches(images):
        number += len(batch)
        (scores, labels), (expected, truth) = answers(batch), reference(batch)
        if scores.shape != expected.shape or labels.shape != truth.shape:
            raise ValueError(
                f'{source.name}: expected scores {expected.shape} and labels {truth.shape} for '
                f'images {batch.shape}, the export gives {scores.shape} and {labels.shape}'
            )
        difference = np.abs(scores - expected)
        largest = float(np.maximum(largest, difference.max()))  # nan stays
        off.append((int((~(difference <= TOLERANCE)).sum()), difference.size))
        other.append((int((labels != truth).sum()), labels.size))
    if not number:
        raise ValueError(f'{source.name} needs at least one image to be checked with')
    agreement = Agreement(number, largest, _share(other))
    allowed = SHARE_OF_TIES if source.ensemble is vote_ensemble else 0
    if _share(off) > allowed or agreement.other_labels > SHARE_OF_TIES:
        raise ValueError(
            f'the export of {source.name} differs from PyTorch on {number} images: scores by up to '
            f'{largest:.2g} (allowed {TOLERANCE:g}), {agreement.other_labels:.2%} of the labels. '
            'Nothing was written'
        )
    return agreement


def dataset_of(config: Config, part: str) -> Any:
    """The data set ``'train'``, ``'val'`` or ``'test'`` of a config.

    Raises:
        ValueError: If the config has none.
        FileNotFoundError: If its files are not there.
    """
    loader = config.get(f'{part}_dataloader')
    if loader is None:
        raise ValueError(f'{config.filename} has no {part}_dataloader: give a folder of images')
    use_default_scope(config)
    return DATASETS.build(loader['dataset'])


def lacks_of_cases(dataset: Any) -> tuple[str, ...]:
    """Return which of ``id`` and ``group`` samples lack; cases are compared by them."""
    sample = dataset[0]['data_samples']
    return tuple(key for key in ('id', 'group') if key not in sample)


def dataset_images(dataset: Any, number: int) -> Iterator[np.ndarray]:
    """Up to that many images, evenly spread, as its pipeline makes them: RGB, (3, H, W), uint8.

    Raises:
        ValueError: If the pipeline makes others.
    """
    places = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).astype(int)
    return (_pixels(dataset[int(place)]) for place in places)


def folder_images(config: Config, folder: str | Path, number: int) -> Iterator[np.ndarray]:
    """The first images of a folder, as the test pipeline makes them: RGB, (3, H, W), uint8.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no image, or one that cannot be read or is not as said.
    """
    pipeline = ImagePipeline(config)
    cases = (read_source(source, ReadOptions()) for source in find_sources(folder))
    images = (pipeline(case.source.files[0], pixels) for case in cases for pixels in case.images)
    return (_pixels(packed) for _, packed in islice(images, number))


def case_table(answers: Answers, source: Source, dataset: Any, name: str) -> pd.DataFrame:
    """What an export says of each image of a data set, see :class:`mmkdml.evaluation.CaseTable`.

    Masks are compared at the size that they have in the file; scores are brought to it bilinearly.

    Args:
        answers: Of the exported file.
        source: What it was made from.
        dataset: Of :func:`dataset_of`.
        name: For the column ``member``.
    """
    metric = CaseTable()
    metric.dataset_meta = dataset.metainfo
    items = (dataset[index] for index in range(len(dataset)))
    for _, alike in groupby(items, key=lambda item: item['inputs'].shape):
        while batch := list(islice(alike, _BATCH)):
            scores, labels = answers(np.stack([_pixels(item) for item in batch]))
            samples = [item['data_samples'] for item in batch]
            for sample, score, label in zip(samples, scores, labels, strict=True):
                if source.segments:
                    mask = _at_size(score, label, sample.ori_shape, source.threshold)
                    sample.pred_sem_seg = PixelData(data=mask)
                else:
                    sample.set_pred_label(int(label))
            metric.process(None, [sample.to_dict() for sample in samples])
    metric.evaluate(len(dataset))
    return metric.table.assign(member=name)


def latencies(
    answers: Mapping[str, Answers], size: Sequence[int], rounds: int = 15
) -> dict[str, float]:
    """Median milliseconds for one image (H, W), of each by its name.

    They take turns, so that a machine that slows down slows all of them.
    """
    image = np.random.default_rng(0).integers(256, size=(1, 3, *size), dtype=np.uint8)
    measures = {
        name: partial(elapsed_seconds, partial(answer, image)) for name, answer in answers.items()
    }
    seconds = interleaved_medians(measures, rounds)
    return {name: 1000 * value for name, value in seconds.items()}


def _share(counts: list[tuple[int, int]]) -> float:
    found, total = map(sum, zip(*counts, strict=True))
    return found / total


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for _, alike in groupby(images, key=np.shape):
        while batch := list(islice(alike, _BATCH)):
            yield np.stack(batch)


def _pixels(item: dict[str, Any]) -> np.ndarray:
    pixels = item['inputs']
    if pixels.dtype != torch.uint8 or len(pixels) != 3:
        raise ValueError(
            'the test pipeline must give images (3, H, W) of uint8 for an export, got '
            f'{tuple(pixels.shape)} of {pixels.dtype}'
        )
    return pixels.flip(0).numpy()


def _at_size(
    scores: np.ndarray, labels: np.ndarray, size: tuple[int, int], threshold: float
) -> torch.Tensor:
    if labels.shape == tuple(size):
        return torch.from_numpy(labels)[None]
    resized = F.interpolate(torch.from_numpy(scores)[None], tuple(size), mode='bilinear')
    return decide(resized, threshold)
