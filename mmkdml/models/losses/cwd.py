"""Channel-wise distillation (CWD)."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.functional.channel import channel_wise_kl
from mmkdml.functional.checks import check_choice, check_positive
from mmkdml.models.losses.masked_loss import MaskedLoss
from mmkdml.registry import MODELS

CWD_REFERENCES = ('cirkd', 'origin')


@MODELS.register_module()
class ChannelWiseLoss(MaskedLoss):
    """Channel-wise KL divergence; see :func:`mmkdml.functional.channel_wise_kl`.

    The inputs are logits (weight 3) or the maps before the classifier (weight 50 in CIRKD); CIRKD
    trains with both. The references treat feature maps differently:

    - ``'cirkd'`` (winycg/CIRKD:losses/cwd.py): if the channels of the two sides differ, a 1x1
      convolution without bias in the loss maps the learner's channels to the source's. The sum is
      divided by N times the learner's channels before that convolution. Equal channels are compared
      directly, without parameters. A projector of the transfer counts as part of the learner.
    - ``'origin'`` (irfanICMLL/TorchDistiller): the transfer's projector maps the channels
      (``ConvProjector`` is closest to the reference's convolution, batch norm and ReLU). The sum is
      divided by N times the channels compared.

    Args:
        temperature: T > 0.
        reference: ``'cirkd'`` or ``'origin'``, which are the same for equal channels.
        learner_channels: C of the learner's map. Default: the source's.
        source_channels: C of the source's map. Default: the learner's.
        ignore_index: See :class:`MaskedLoss`.

    Raises:
        ValueError: If T is not positive or the reference is unknown.
    """

    def __init__(
        self,
        temperature: float = 4.0,
        reference: str = 'cirkd',
        learner_channels: int | None = None,
        source_channels: int | None = None,
        ignore_index: int | None = None,
    ) -> None:
        super().__init__(ignore_index)
        check_positive('temperature', temperature)
        check_choice('reference', reference, CWD_REFERENCES)
        self.temperature = temperature
        self.reference = reference
        if (
            reference == 'cirkd'
            and isinstance(learner_channels, int)
            and isinstance(source_channels, int)
            and learner_channels != source_channels
        ):
            self.projects_channels = True
            self.conv = nn.Conv2d(learner_channels, source_channels, 1, bias=False)

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor | None = None) -> Tensor:
        """Compute the loss from logits or feature maps (N, C, H, W) and (N, C', H, W).

        C' may differ from C only with ``'cirkd'`` and if the constructor received both. Labels are
        (N, H', W'), only used with an ``ignore_index``.
        """
        channels = learner.shape[1]
        if self.projects_channels:
            learner = self.conv(learner)
        mask = self.mask_of(learner, truth)
        return channel_wise_kl(learner, source, self.temperature, channels, mask)
