"""Trained networks of a run to export, with preprocessing, ensemble and threshold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmkdml.checkpoint_io import recorded_dataset_meta
from mmkdml.inspection.config import Inspection, inspect_config
from mmkdml.models.checkpoints import load_checkpoint_file, load_network, resolve_checkpoint
from mmkdml.models.classroom_configs import frozen_checkpoint_option
from mmkdml.models.ensembles import Ensemble, max_ensemble
from mmkdml.models.heads import BinaryLinearClsHead
from mmkdml.models.tasks.segmentation import last_head
from mmkdml.names import ENSEMBLE


@dataclass(frozen=True)
class ExportSource:
    """Networks to export, with their weights, in eval mode and on the CPU.

    Attributes:
        name: ``<config>-<what>``, the stem of all exported files.
        what: Name of a member, or ``'ensemble'``.
        config: Config of the run.
        checkpoint: File of the weights.
        meta: ``classes`` and ``palette`` from the checkpoint, if known.
        inspection: Inspected config, with the size of the images as input size.
        members: The network, or the students in the order of the ensemble.
        ensemble: Rule from :mod:`mmkdml.models.ensembles`; the identity for one network.
        threshold: Foreground probability above which a pixel is foreground, in (0, 1); of
            multi-label networks the least probability of a class that is predicted.
        preprocessor: The shared data preprocessor.
        channels: Channels of the images that the test pipeline returns; 3 are BGR there, and RGB in
            the export.
        dtype: Name of their type, such as ``'uint8'``.
        nms: Select the boxes of a detector in the graph.
    """

    name: str
    what: str
    config: Config
    checkpoint: Path
    meta: dict[str, Any]
    inspection: Inspection
    members: dict[str, nn.Module]
    ensemble: Ensemble
    threshold: float
    preprocessor: Any
    channels: int = 3
    dtype: str = 'uint8'
    nms: bool = False

    @property
    def segments(self) -> bool:
        """True if the networks predict masks."""
        return self.inspection.task.name == 'segmentation'

    @property
    def detects(self) -> bool:
        """True if the networks predict boxes."""
        return self.inspection.task.name == 'detection'

    @property
    def padded_size(self) -> tuple[int, int]:
        """(H, W) of the images that detectors process; other preprocessors do not pad."""
        divisor = self.preprocessor.pad_size_divisor if self.detects else 1
        height, width = (-(-side // divisor) * divisor for side in self.inspection.input_size)
        return height, width

    def preprocessor_of(self, name: str) -> Any:
        """Return the data preprocessor of a member: its own, or the shared one."""
        distiller = self.inspection.distiller
        if distiller is None or self.preprocessor is not distiller.data_preprocessor:
            return self.preprocessor
        return distiller.preprocessor_of(name)


def load_source(
    config: Config,
    checkpoint: str | Path,
    what: str,
    image_size: Sequence[int] | None = None,
    channels: int = 3,
    dtype: str = 'uint8',
    nms: bool = False,
) -> ExportSource:
    """Build the networks and load their weights strictly.

    Args:
        config: Config of the run, as read from a file.
        checkpoint: Checkpoint file, or folder of the run for its best one. The weights of a frozen
            member come from the file in the config.
        what: ``'ensemble'``, or the name of a member such as ``'teacher'`` or ``'student_1'``;
            ``'model'`` for a config without a classroom.
        image_size: (H, W) of the images after the test pipeline. Default: the classroom's
            ``input_size``, or the size of the config's data, or the default of the task.
        channels: See :class:`ExportSource`.
        dtype: See :class:`ExportSource`.
        nms: See :class:`ExportSource`.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the member is unknown, a frozen member has no file, the weights do not fit,
            or the head or test mode of a network is not supported; or
            with ``nms``, if the networks are no detectors.
        TypeError: If the config's model is of another kind.
    """
    inspection = inspect_config(config)
    if image_size is not None:
        inspection = dataclasses.replace(inspection, input_size=tuple(image_size))
    if nms and inspection.task.name != 'detection':
        raise ValueError(f'nms: expected a detector, got {inspection.task.name}. Remove --nms')
    distiller = inspection.distiller
    choices: dict[str, tuple[str, ...]] = {name: (name,) for name in inspection.members}
    if distiller is not None:
        choices[ENSEMBLE] = distiller.student_names
    if what not in choices:
        raise ValueError(
            f'Nothing named {what!r} in {config.filename}: expected {", ".join(choices)}. '
            'Choose one with --what'
        )
    path = resolve_checkpoint(checkpoint)
    members = {name: inspection.members[name] for name in choices[what]}
    for name, member in members.items():
        file: str | Path | None = path
        if distiller is not None and name in distiller.frozen_names:
            file = inspection.checkpoints.get(name)
        if file is None:
            raise ValueError(
                f'{config.filename} has no checkpoint of the frozen {name}. Add --cfg-options '
                f'{frozen_checkpoint_option(config.model, name)}=FILE'
            )
        load_network(member.eval(), file, name)
        for part in member.modules():  # mmseg and mmdet read their settings as attributes
            if isinstance(getattr(part, 'test_cfg', None), dict):
                part.test_cfg = ConfigDict(part.test_cfg)
    multi_label = inspection.task.multi_label
    threshold = {_threshold(name, one, multi_label) for name, one in members.items()}.pop()
    owner = distiller or next(iter(members.values()))
    return ExportSource(
        name=f'{Path(config.filename).stem}-{what}',
        what=what,
        config=config,
        checkpoint=path,
        meta=_dataset_meta(path),
        inspection=inspection,
        members=members,
        ensemble=distiller.ensemble if distiller and what == ENSEMBLE else max_ensemble,
        threshold=threshold,
        preprocessor=owner.data_preprocessor,
        channels=channels,
        dtype=dtype,
        nms=nms,
    )


def _dataset_meta(path: Path) -> dict[str, Any]:
    known = recorded_dataset_meta(load_checkpoint_file(path))
    return {key: known[key] for key in ('classes', 'palette') if known.get(key) is not None}


def _threshold(name: str, member: Any, multi_label: bool) -> float:
    """Return the threshold of a network, whose predictions must depend only on its logits."""
    if _segments(member) and member.test_cfg.get('mode', 'whole') != 'whole':
        raise ValueError(
            f'{name}: sliding-window inference is not supported in an exported graph. Set '
            "test_cfg=dict(mode='whole')"
        )
    head: Any = last_head(member) if _segments(member) else getattr(member, 'head', None)
    if multi_label:
        if head.thr is None:
            raise ValueError(
                f'{name}: expected a head with a threshold (thr) for export, got topk={head.topk}'
            )
        return float(head.thr)
    threshold = getattr(head, 'threshold', None)
    if isinstance(head, BinaryLinearClsHead) and threshold != 0.5:
        raise ValueError(
            f'{name}: expected threshold=0.5 for export, got {threshold}. Export with 0.5, and '
            'apply your threshold to the scores'
        )
    return 0.5 if threshold is None else float(threshold)


def _segments(member: Any) -> bool:
    return hasattr(member, 'decode_head')
