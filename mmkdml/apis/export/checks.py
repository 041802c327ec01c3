"""Agreement of an export with the framework, its quality and its speed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import PixelData

from mmkdml.apis.export.agreement import TOLERANCE, Agreement
from mmkdml.apis.export.detection_checks import (
    BoxComparison,
    as_arrays,
    boxes_of_priors,
    predicted_boxes,
    selected,
    set_boxes,
)
from mmkdml.apis.export.graph import PredictFn
from mmkdml.apis.export.source import ExportSource
from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.apis.prediction.predictor import equal_batches
from mmkdml.datasets.channels import DTYPES
from mmkdml.evaluation import CaseTable
from mmkdml.evaluation.predictions import multi_hot
from mmkdml.inspection.config import use_default_scope
from mmkdml.models.ensembles import decide, vote_ensemble
from mmkdml.names import MULTI_LABEL
from mmkdml.profiling import elapsed_seconds, interleaved_medians
from mmkdml.registry import DATASETS

#: Share of labels that may differ, because rounding decides probabilities at the threshold.
SHARE_OF_TIES = 1e-4
_BATCH = 8


def framework_predictor(source: ExportSource) -> PredictFn:
    """Predict with the preprocessing, networks and ensemble of the framework.

    The outputs are those of the exported graph. Detectors return boxes, scores and labels,
    padded with -1: after mmdet's selection with ``source.nms``, else of all priors and classes.
    """
    task = source.inspection.task

    def predict(images: np.ndarray) -> tuple[np.ndarray, ...]:
        networks = list(source.members.values())
        predictions = []
        for name, network in source.members.items():
            batch = dict(
                inputs=list(torch.from_numpy(_reversed_if_rgb(images, 1))),  # as mmcv reads them
                data_samples=task.dummy_samples(len(images), images.shape[2:]),
            )
            data = source.preprocessor_of(name)(batch, False)
            with torch.inference_mode():
                if source.detects and not source.nms:
                    return as_arrays(boxes_of_priors(network, **data))
                predictions.append(task.predict(network, data['inputs'], data['data_samples']))
        if source.detects:
            return as_arrays(predicted_boxes(networks[0], predictions[0]))
        with torch.inference_mode():
            samples: Any = task.combine(networks, predictions, source.ensemble, None)
        if source.segments:
            scores = [sample.seg_logits.data for sample in samples]
            labels = [sample.pred_sem_seg.data for sample in samples]
        else:
            scores = [sample.pred_score for sample in samples]
            labels = [sample.pred_label for sample in samples]
        if task.multi_label:
            labels = [multi_hot(sample.to_dict(), 'pred')[None] for sample in samples]
        return torch.stack(scores).numpy(), torch.cat(labels).numpy()

    return predict


def compare(predict: PredictFn, source: ExportSource, images: Iterable[np.ndarray]) -> Agreement:
    """Compare the predictions of an export with those of the framework.

    Args:
        predict: Predictor of the exported file.
        source: The networks that were exported.
        images: Images, each (C, H, W); three channels are RGB.

    Raises:
        ValueError: If there is no image, a score differs by more than 1e-4, or more than one label
            in 10,000 differs. Shares of votes are compared like labels, as they are thresholded.
            Boxes are compared as in :class:`~mmkdml.apis.export.detection_checks.BoxComparison`.
    """
    reference = framework_predictor(source)
    if source.detects:
        comparison = BoxComparison()
        for batch in map(np.stack, equal_batches(images, _BATCH, np.shape)):
            comparison.add(predict(batch), reference(batch))
        return comparison.result(source.name)
    number, largest, off, other = 0, 0.0, [], []
    for batch in map(np.stack, equal_batches(images, _BATCH, np.shape)):
        number += len(batch)
        (scores, labels), (expected, expected_labels) = predict(batch), reference(batch)
        if scores.shape != expected.shape or labels.shape != expected_labels.shape:
            raise ValueError(
                f'{source.name}: expected scores {expected.shape} and labels '
                f'{expected_labels.shape} for images {batch.shape}, got {scores.shape} and '
                f'{labels.shape}'
            )
        difference = np.abs(scores - expected)
        largest = float(np.maximum(largest, difference.max()))  # keeps NaN
        off.append((int((~(difference <= TOLERANCE)).sum()), difference.size))
        other.append((int((labels != expected_labels).sum()), labels.size))
    if not number:
        raise ValueError(f'{source.name}: expected at least one image to check, got none')
    agreement = Agreement(number, largest, _share(other))
    allowed = SHARE_OF_TIES if source.ensemble is vote_ensemble else 0
    if _share(off) > allowed or agreement.other_labels > SHARE_OF_TIES:
        raise ValueError(
            f'{source.name} differs from PyTorch on {number} images: scores by up to {largest:.2g} '
            f'(allowed {TOLERANCE:g}), {agreement.other_labels:.2%} of the labels. No files were '
            'written'
        )
    return agreement


def dataset_of(config: Config, part: str) -> Any:
    """Build the ``'train'``, ``'val'`` or ``'test'`` data set of a config.

    Raises:
        ValueError: If the config has no such data set.
        FileNotFoundError: If its files do not exist.
    """
    loader = config.get(f'{part}_dataloader')
    if loader is None:
        raise ValueError(f'No {part}_dataloader in {config.filename}. Pass a folder of images')
    use_default_scope(config)
    return DATASETS.build(loader['dataset'])


def missing_case_keys(dataset: Any) -> tuple[str, ...]:
    """Return the keys of ``id`` and ``group``, which identify a case, that samples lack."""
    sample = dataset[0]['data_samples']
    return tuple(key for key in ('id', 'group') if key not in sample)


def dataset_images(dataset: Any, number: int) -> Iterator[np.ndarray]:
    """Yield up to ``number`` evenly spaced images of a data set, (C, H, W).

    Images with three channels are RGB.

    Raises:
        ValueError: If the pipeline returns another type or shape.
    """
    places = np.linspace(0, len(dataset) - 1, min(number, len(dataset))).astype(int)
    return (_pixels(dataset[int(place)]) for place in places)


def folder_images(config: Config, folder: str | Path, number: int) -> Iterator[np.ndarray]:
    """Yield the first images of a folder after the test pipeline, (C, H, W).

    Images with three channels are RGB.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it has no images, or one is unreadable or of another type or shape.
    """
    pipeline = ImagePipeline(config)
    options = ReadOptions(channels=pipeline.channels, form=pipeline.form)
    sources = find_sources(folder, channels=pipeline.channels)
    cases = (read_source(source, options) for source in sources)
    images = (
        pipeline(case.source.files[0], pixels, case.volume and case.volume.intensity)
        for case in cases
        for pixels in case.images
    )
    return (_pixels(packed) for _, packed in islice(images, number))


def case_table(predict: PredictFn, source: ExportSource, dataset: Any, name: str) -> pd.DataFrame:
    """Evaluate an export on each image of a data set; see :class:`mmkdml.evaluation.CaseTable`.

    Masks are compared at their original size, to which scores are interpolated bilinearly. Boxes of
    all priors are selected as by mmdet before.

    Args:
        predict: Predictor of the exported file.
        source: The networks that were exported.
        dataset: Return value of :func:`dataset_of`.
        name: Value of the column ``member``.
    """
    metric = CaseTable()
    metric.dataset_meta = dataset.metainfo
    items = (dataset[index] for index in range(len(dataset)))
    for batch in equal_batches(items, _BATCH, lambda item: item['inputs'].shape):
        outputs = predict(np.stack([_pixels(item) for item in batch]))
        samples = [item['data_samples'] for item in batch]
        for index, sample in enumerate(samples):
            if source.detects:
                set_boxes(sample, selected(outputs, index, source))
                continue
            score, label = (output[index] for output in outputs)
            if source.segments:
                mask = _at_size(score, label, sample.ori_shape, source.threshold)
                sample.pred_sem_seg = PixelData(data=mask)
            elif source.inspection.task.multi_label:
                sample.set_pred_score(score).set_pred_label(np.flatnonzero(label))
                sample.set_field(True, MULTI_LABEL, field_type='metainfo')
            else:
                sample.set_pred_score(score).set_pred_label(int(label))
        metric.process(None, [sample.to_dict() for sample in samples])
    metric.evaluate(len(dataset))
    return metric.table.assign(member=name)


def latencies(
    predictors: Mapping[str, PredictFn],
    shape: Sequence[int],
    dtype: str = 'uint8',
    rounds: int = 15,
) -> dict[str, float]:
    """Measure the median milliseconds of each predictor for one image of a shape (C, H, W).

    The predictors take turns, so that a temporary slowdown affects all of them.
    """
    image = np.random.default_rng(0).integers(256, size=(1, *shape)).astype(dtype)
    measures = {
        name: partial(elapsed_seconds, partial(predict, image))
        for name, predict in predictors.items()
    }
    seconds = interleaved_medians(measures, rounds)
    return {name: 1000 * value for name, value in seconds.items()}


def _share(counts: list[tuple[int, int]]) -> float:
    found, total = map(sum, zip(*counts, strict=True))
    return found / total


def _pixels(item: dict[str, Any]) -> np.ndarray:
    pixels = item['inputs']
    if pixels.dtype not in [getattr(torch, kind) for kind in DTYPES]:
        raise ValueError(
            f'Invalid test pipeline for export: expected images of {", ".join(DTYPES)}, got '
            f'{tuple(pixels.shape)}, {pixels.dtype}'
        )
    return _reversed_if_rgb(pixels.numpy(), 0)


def _reversed_if_rgb(images: np.ndarray, axis: int) -> np.ndarray:
    """Convert three channels along an axis from BGR to RGB or back; keep others."""
    return np.flip(images, axis).copy() if images.shape[axis] == 3 else images


def _at_size(
    scores: np.ndarray, labels: np.ndarray, size: tuple[int, int], threshold: float
) -> torch.Tensor:
    if labels.shape == tuple(size):
        return torch.from_numpy(labels)[None]
    resized = F.interpolate(torch.from_numpy(scores)[None], tuple(size), mode='bilinear')
    return decide(resized, threshold)
