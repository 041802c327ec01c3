"""What is exported: trained networks of a run, and how their logits become an answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmkdml.inspection.config import Inspection, inspect_config
from mmkdml.models.checkpoints import load_checkpoint_file, load_member, resolve_checkpoint
from mmkdml.models.classroom_configs import frozen_checkpoint_option
from mmkdml.models.ensembles import Ensemble, max_ensemble
from mmkdml.models.heads import BinaryLinearClsHead
from mmkdml.names import ENSEMBLE


@dataclass(frozen=True)
class Source:
    """Networks with their weights, in eval mode and on the CPU.

    Attributes:
        name: ``<config>-<what>``, the stem of all exported files.
        what: A member's name, or ``'ensemble'``.
        config: Of the run.
        checkpoint: File that the weights are from.
        meta: What it says of the data set: ``classes`` and ``palette``, where they are known.
        inspection: What the config describes, at the size of the images.
        members: The network, or the students in the ensemble's order.
        ensemble: See :mod:`mmkdml.models.ensembles`; for one network its own answer.
        threshold: Above it one foreground probability is foreground, in (0, 1).
        preprocessor: The framework's data preprocessor that they share.
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

    @property
    def segments(self) -> bool:
        """Whether the answers are masks."""
        return self.inspection.task.name == 'segmentation'

    def preprocessor_of(self, name: str) -> Any:
        """Return the data preprocessor of a member: its own, or the shared one."""
        distiller = self.inspection.distiller
        if distiller is None or self.preprocessor is not distiller.data_preprocessor:
            return self.preprocessor
        return distiller.preprocessor_of(name)


def load_source(
    config: Config, checkpoint: str | Path, what: str, image_size: Sequence[int] | None = None
) -> Source:
    """Builds the networks and loads their weights; every key and shape must fit.

    Args:
        config: Of the run, as read from a file.
        checkpoint: File, or folder of the run for its best checkpoint. A frozen teacher's weights
            come from the file that the config names.
        what: ``'ensemble'``, ``'teacher'``, ``'student_1'`` or any other member; ``'model'`` for
            the network of a config without a classroom.
        image_size: (H, W) of the images as the test pipeline gives them. Default: the size that the
            config's classroom has for its checks, or the task's.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If there is no such member, a frozen one has no file, the weights do not fit, or
            the networks answer in a way that an export cannot.
        TypeError: If the config's model is of no known kind.
    """
    inspection = inspect_config(config)
    if image_size is not None:
        inspection = dataclasses.replace(inspection, input_size=tuple(image_size))
    distiller = inspection.distiller
    choices: dict[str, tuple[str, ...]] = {name: (name,) for name in inspection.members}
    if distiller is not None:
        choices[ENSEMBLE] = distiller.student_names
    if what not in choices:
        raise ValueError(
            f'{config.filename} has {", ".join(choices)} to export, got {what!r}. '
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
        load_member(member.eval(), name, file)
        if _segments(member):  # mmseg asks for its settings by attribute
            member.test_cfg = ConfigDict(member.test_cfg)
    threshold = {_threshold(name, member) for name, member in members.items()}.pop()
    owner = distiller or next(iter(members.values()))
    return Source(
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
    )


def _dataset_meta(path: Path) -> dict[str, Any]:
    meta = load_checkpoint_file(path).get('meta')
    known = (meta.get('dataset_meta') if isinstance(meta, Mapping) else None) or {}
    return {key: known[key] for key in ('classes', 'palette') if known.get(key) is not None}


def _threshold(name: str, member: Any) -> float:
    """Of a network that is known to answer by its logits alone."""
    if _segments(member) and member.test_cfg.get('mode', 'whole') != 'whole':
        raise ValueError(
            f'{name} looks at images through a sliding window, and an exported graph at whole '
            "ones: set test_cfg=dict(mode='whole')"
        )
    head = member.decode_head if _segments(member) else member.head
    if isinstance(head, nn.ModuleList):
        raise ValueError(f'{name} has a cascade of heads, which cannot be exported')
    threshold = getattr(head, 'threshold', None)
    if isinstance(head, BinaryLinearClsHead) and threshold != 0.5:
        raise ValueError(
            f'an exported classifier chooses the more probable class, but the head of {name} has '
            f'threshold={threshold}: export it with 0.5, and apply yours to the scores'
        )
    return 0.5 if threshold is None else float(threshold)


def _segments(member: Any) -> bool:
    return hasattr(member, 'decode_head')
