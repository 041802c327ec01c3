"""Export of a run in one call: files, check against PyTorch, quality, speed and model card."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mmkdml.apis.export.card import INTENDED_USE, LICENCE, make_card, write_card
from mmkdml.apis.export.checks import (
    case_table,
    dataset_images,
    dataset_of,
    folder_images,
    missing_case_keys,
)
from mmkdml.apis.export.formats import ONNX, Exported, export, measure_latencies, new_folder
from mmkdml.apis.export.source import load_source
from mmkdml.apis.run.config import load_run
from mmkdml.statistics.case_scores import case_scores

_CALIBRATION_IMAGES = 100


@dataclass(frozen=True)
class ExportResult:
    """Result of :func:`export_run`.

    Attributes:
        exported: Predictors of the written files, their agreement with PyTorch, and the classes of
            other packages that a checkpoint needs.
        scores: Quality on the test set, as of :func:`mmkdml.statistics.case_scores.case_scores`;
            None if it was not measured.
        latency_ms: Milliseconds per image by predictor.
        card: Content of the model card.
    """

    exported: Exported
    scores: pd.DataFrame | None
    latency_ms: dict[str, float]
    card: dict[str, Any]


def export_run(
    run: str | Path,
    out: str | Path,
    checkpoint: str | Path | None = None,
    *,
    what: str = 'ensemble',
    form: str = ONNX,
    int8: bool = False,
    nms: bool = False,
    images: str | Path | None = None,
    check: int = 50,
    options: Mapping[str, Any] | None = None,
    force: bool = False,
    intended_use: str = INTENDED_USE,
    licence: str = LICENCE,
    use_config: bool = False,
) -> ExportResult:
    """Export a trained network or ensemble with a model card.

    The exported files are loaded again and compared with PyTorch, evaluated on the test set, and
    timed. They are moved to ``out`` only if everything succeeds.

    Args:
        run: Folder of a run, which contains its config and checkpoint; or a config file.
        out: Output folder; created if missing.
        checkpoint: Checkpoint file, or folder of a run for its best one. Default: that of the run.
        what: ``'ensemble'`` or the name of a member; ``'model'`` for a plain network.
        form: ``'checkpoint'`` (for MMPretrain, MMSegmentation and MMDetection), ``'onnx'`` or
            ``'torch-export'``.
        int8: Also write an int8 model, calibrated on the validation set. Only for ``'onnx'``.
        nms: Select the boxes of a detector in the graph, as mmdet does. Only for ``'onnx'``.
        images: Folder of images to check the export on. Default: the test set, on which quality is
            measured, too.
        check: Number of images to check the export on, at least 1.
        options: Settings of the config to override, by dotted key.
        force: Replace files of the same name in ``out``.
        intended_use: Text for the model card.
        licence: Text for the model card.
        use_config: Allow a config file with other settings than the run of the folder.

    Raises:
        FileExistsError: If ``out`` is not empty, without ``force``.
        FileNotFoundError: If the run, checkpoint, images or data set does not exist.
        TypeError: If the config's model is of another kind.
        ValueError: If an argument is invalid, the checkpoint does not fit, a package is missing,
            the format does not support the networks, or its predictions differ from PyTorch's.
    """
    if int8 and images is not None:
        raise ValueError(
            'int8: expected no folder of images, because it is measured on the test set'
        )
    if check < 1:
        raise ValueError(f'check: expected at least 1 image, got {check}')
    config, checkpoint = load_run(run, checkpoint, options, use_config=use_config)
    with new_folder(out, force) as folder:
        test = None if images is not None else dataset_of(config, 'test')
        missing = () if test is None else missing_case_keys(test)
        if missing:
            reason = (
                f'samples of the test set have no {" and ".join(missing)}. Add them to the data '
                "set and to meta_keys of the pipeline's packing transform"
            )
            if int8:
                raise ValueError(f'Quality of int8 is not measured: {reason}')
            print(f'warning: quality is not measured: {reason}', file=sys.stderr)
        checked = list(
            dataset_images(test, check) if images is None else folder_images(config, images, check)
        )
        channels, *size = checked[0].shape
        kind = checked[0].dtype.name
        source = load_source(config, checkpoint, what, size, channels, kind, nms)
        calibration = (
            dataset_images(dataset_of(config, 'val'), _CALIBRATION_IMAGES) if int8 else None
        )
        exported = export(source, folder, form, checked, calibration)
        scores = None
        if test is not None and not missing:
            tables = [
                case_table(one, source, test, name) for name, one in exported.predictors.items()
            ]
            scores = case_scores(pd.concat(tables), form if int8 else None)
        latency_ms = measure_latencies(exported, source)
        card = make_card(source, form, folder, exported, latency_ms, scores, intended_use, licence)
        write_card(card, folder)
    return ExportResult(exported, scores, latency_ms, card)
