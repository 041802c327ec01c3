"""Neck of a student that reuses its teacher's classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.model import BaseModule
from mmpretrain.models.necks import GlobalAveragePooling
from torch import Tensor

from mmkdml.models.projectors import SimKDProjector
from mmkdml.registry import MODELS


@MODELS.register_module()
class SimKDNeck(BaseModule):
    """Neck with :class:`SimKDProjector` and pooling, before the reused classifier.

    Source: Chen et al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022.
    Projector and classifier are parts of the student, so the student predicts without its teacher.
    ``KnowledgeDistiller(reused_classifiers=dict(student='teacher'))`` copies the classifier to the
    student's head, which must have the same size. The student is trained by ``SimKDLoss`` between
    ``neck.projector``, its default tap, and the teacher's last map, with a supervised weight of 0.

    Args:
        in_channels: Channels of the backbone's last map.
        out_channels: Channels of the teacher's classifier.
        factor: See :class:`SimKDProjector`.
        out_size: (H, W) of the teacher's map, if the student's is larger.
        init_cfg: See mmengine's ``BaseModule``.
    """

    shared_map = 'neck.projector'

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        factor: int = 2,
        out_size: Sequence[int] | None = None,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg)
        self.projector = SimKDProjector(in_channels, out_channels, out_size, factor)
        self.pool = GlobalAveragePooling()

    def forward(self, maps: tuple[Tensor, ...]) -> tuple[Tensor]:
        """Pool the projected last map (N, C_in, H, W) to vectors (N, C_out)."""
        return self.pool((self.projector(maps[-1]),))
