"""The neck of a student that answers with its teacher's classifier."""

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
    """:class:`SimKDProjector`, then global average pooling, before the reused classifier.

    Chen et al., *Knowledge Distillation with the Reused Teacher Classifier*, CVPR 2022. Projector
    and classifier are parts of the student, so its predictions, checkpoints and published files
    hold them without any teacher. The student's head has the form of the teacher's, and
    ``KnowledgeDistiller(reused_classifiers=dict(student='teacher'))`` fills it. What the student
    learns by is ``SimKDLoss`` between ``neck.projector``, its default tap, and the map that the
    teacher pools; the supervised weight is 0.

    Args:
        in_channels: Of the backbone's last map.
        out_channels: Of the vectors that the teacher's classifier takes.
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
        """Maps of the stages, the last being (N, C_in, H, W) -> one vector (N, C_out)."""
        return self.pool((self.projector(maps[-1]),))
