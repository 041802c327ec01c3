"""What a classroom asks of the loss of a transfer."""

from __future__ import annotations

import inspect
from typing import ClassVar

from torch import nn


class TransferLoss(nn.Module):
    """Base of the losses of a transfer; a new one goes into a file of its own beside this.

    It is called with (learner, source): logits, a map, or a list of maps where the transfer names
    several taps. The source's side has no gradient. Any module of that kind may be a loss; the
    attributes below are looked up, and have these values where there are none. Parameters of the
    constructor called ``learner_channels``, ``source_channels`` or ``num_classes`` are filled in
    when the classroom is built. Besides, a loss may have a ``discriminator_loss(learner, source)``
    and a ``discriminator_weight``.
    """

    #: Whether both sides must come in one shape, which is checked before the training.
    requires_same_shape: ClassVar[bool] = True
    #: Whether the loss maps the channels of the learner's features to the source's, so that only
    #: the other dimensions must agree.
    projects_channels: bool = False
    #: Whether the truth of the batch is a third argument: classes (N,) or (N, H, W).
    needs_truth: ClassVar[bool] = False
    #: Whether the source's classifier is a further argument: (N, C) -> (N, K), fixed.
    needs_source_classifier: ClassVar[bool] = False

    def extra_repr(self) -> str:
        """The options, as they are printed with the module."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
