"""Whether an exported graph answers as the framework does, how well and how fast."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import PixelData

from mmkdml.apis.export_graph import Answers
from mmkdml.apis.export_source import Source
from mmkdml.datasets.images import read_image
from mmkdml.evaluation import CaseTable
from mmkdml.models.ensembles import decide, vote_ensemble
from mmkdml.registry import DATASETS

TOLERANCE = 1e-4
#: Labels that may differ, for a probability can lie at the threshold but for rounding.
SHARE_OF_TIES = 1e-4
_BATCH = 8
_IMAGES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp')


@dataclass(frozen=True)
class Agreement:
    """How far an exported graph is from the framework's own predictions.

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
        data = source.preprocessor(
            dict(
                inputs=list(torch.from_numpy(images).flip(1)),  # BGR, as mmcv reads them
                data_samples=task.made_up_samples(len(images), images.shape[2:]),
            ),
            False,
        )
        networks = list(source.members.values())
        with torch.inference_mode():
            predictions = [
                task.predict(network, data['inputs'], data['data_samples']) for network in networks
            ]
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
    """Holds a graph against the framework.

    Args:
        answers: Of the exported file.
        source: What it was made from.
        images: RGB, each (3, H, W), uint8.

    Raises:
        ValueError: If there is no image, a score differs by more than 1e-4, or more than one label
            in 10,000 differs. Votes are counted like labels: they jump at a threshold, too.
    """
    reference = framework_answers(source)
    differences, labels, number = [], [], 0
    for batch in _batches(images):
        number += len(batch)
        (scores, label), (expected, truth) = answers(batch), reference(batch)
        if scores.shape != expected.shape or label.shape != truth.shape:
            raise ValueError(
                f'{source.name}: expected scores {expected.shape} and labels {truth.shape} for '
                f'images {batch.shape}, the exported graph gives {scores.shape} and {label.shape}'
            )
        differences.append(np.abs(scores - expected).ravel())
        labels.append((label != truth).ravel())
    if not number:
        raise ValueError(f'{source.name} needs at least one image to be checked with')
    difference = np.concatenate(differences)
    agreement = Agreement(number, float(difference.max()), float(np.concatenate(labels).mean()))
    wrong = ~(difference <= TOLERANCE)  # nan is wrong
    discrete = source.ensemble is vote_ensemble
    if wrong.mean() > (SHARE_OF_TIES if discrete else 0) or agreement.other_labels > SHARE_OF_TIES:
        raise ValueError(
            f'the exported graph of {source.name} differs from PyTorch on {number} images: scores '
            f'by up to {agreement.max_difference:.2g} (allowed {TOLERANCE:g}), '
            f'{agreement.other_labels:.2%} of the labels. Nothing was written'
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
    return DATASETS.build(loader['dataset'])


def dataset_images(dataset: Any, number: int) -> Iterator[np.ndarray]:
    """Up to that many images, evenly spread, as its pipeline makes them: RGB, (3, H, W), uint8."""
    places = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).astype(int)
    return (_pixels(dataset[int(place)]) for place in places)


def folder_images(folder: str | Path, number: int, size: tuple[int, ...]) -> Iterator[np.ndarray]:
    """The first images of a folder by name, resized to (H, W): RGB, (3, H, W), uint8.

    Raises:
        FileNotFoundError: If there is no image in it.
        ValueError: If an image cannot be read, or is neither grey nor RGB.
    """
    paths = sorted(path for path in Path(folder).glob('*') if path.suffix.lower() in _IMAGES)
    if not paths:
        raise FileNotFoundError(f'There is no image ({", ".join(_IMAGES)}) in the folder {folder}')
    for path in paths[:number]:
        pixels = read_image(path, ('RGB', 'L', 'P'))
        pixels = cv2.resize(pixels, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
        yield np.ascontiguousarray(
            np.moveaxis(np.atleast_3d(pixels), 2, 0).repeat(1 if pixels.ndim == 3 else 3, axis=0)
        )


def case_table(answers: Answers, source: Source, dataset: Any, name: str) -> pd.DataFrame:
    """What a graph says of each image of a data set, see :class:`mmkdml.evaluation.CaseTable`.

    Masks are compared at the size that they have in the file; scores are brought to it bilinearly.

    Args:
        answers: Of the graph.
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


def latency(answers: Answers, source: Source, rounds: int = 15) -> float:
    """Median time in milliseconds for one image of the networks' input size."""
    image = np.random.default_rng(0).integers(
        256, size=(1, 3, *source.inspection.input_size), dtype=np.uint8
    )
    answers(image)
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        answers(image)
        seconds.append(time.perf_counter() - begun)
    return 1000 * statistics.median(seconds)


def _batches(images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for _, alike in groupby(images, key=np.shape):
        while batch := list(islice(alike, _BATCH)):
            yield np.stack(batch)


def _pixels(item: dict[str, Any]) -> np.ndarray:
    return item['inputs'].flip(0).numpy()


def _at_size(
    scores: np.ndarray, labels: np.ndarray, size: tuple[int, int], threshold: float
) -> torch.Tensor:
    if labels.shape == tuple(size):
        return torch.from_numpy(labels)[None]
    resized = F.interpolate(torch.from_numpy(scores)[None], tuple(size), mode='bilinear')
    return decide(resized, threshold)
