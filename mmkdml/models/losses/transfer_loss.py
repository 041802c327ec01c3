"""Base class of transfer losses."""

from __future__ import annotations

import inspect

from torch import nn


class TransferLoss(nn.Module):
    """Base class of losses between a learner and a source; add each new loss in its own file.

    Called with (learner, source): logits, a feature map, or a list of maps if the transfer names
    several taps. The source is detached. Any module with this signature can be a loss; missing
    attributes default to the values below. The constructor arguments ``learner_channels``,
    ``source_channels``, ``num_classes`` and ``multi_label`` are inferred when the distiller is
    built. A loss may also define ``discriminator_loss(learner, source)`` and
    ``discriminator_weight``.
    """

    #: Both sides must have the same shape, which is checked before training.
    requires_same_shape: bool = True
    #: The loss maps the learner's channels to the source's; only other dimensions must agree.
    projects_channels: bool = False
    #: The third argument is the ground truth of the batch: classes (N,) or (N, H, W), or for
    #: detection a list with the :class:`mmkdml.functional.boxes.Objects` of each image.
    needs_truth: bool = False
    #: The loss is only for detection, because it compares predictions of detectors or its ground
    #: truth is boxes. Other losses on predictions or with ground truth are not for detection.
    for_detection: bool = False
    #: Classes are compared independently of each other, without a softmax over them. Predictions of
    #: multi-label heads need such a loss.
    multi_label: bool = False
    #: The last argument is the source's frozen classifier, (N, C) -> (N, K).
    needs_source_classifier: bool = False

    def extra_repr(self) -> str:
        """Return the options that are printed with the module."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return ', '.join(f'{name}={getattr(self, name)!r}' for name in names)
