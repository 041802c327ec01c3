"""timm backbones that load pretrained weights in ``init_weights``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from torch import Tensor, nn

from mmkdml.registry import MODELS
from mmkdml.weight_checks import check_values


@MODELS.register_module()
class PretrainedTIMMBackbone(TIMMBackbone):
    """mmpretrain's TIMMBackbone that downloads pretrained weights in ``init_weights``.

    The original downloads weights while it is built, even to inspect a config or to test a
    checkpoint. Here only training does, as with ``init_cfg``. Channels-last maps of timm's Swin
    transformers are returned as (N, C, H, W). With ``features_only=True`` a ViT returns maps.

    Args:
        model_name: Name in timm, e.g. ``'mobilenetv1_100'``.
        pretrained: Load timm's weights in ``init_weights``.
        in_channels: Channels of the images, to which timm adapts the first convolution.
        pretrained_cfg_overlay: Overrides of timm's ``pretrained_cfg``; ``dict(file='weights.pth')``
            loads a local file.
        **kwargs: See :class:`mmpretrain.models.TIMMBackbone`.

    Raises:
        TypeError: If ``pretrained`` is not a bool.
        FileNotFoundError: In ``init_weights``, if the local file does not exist.
        ValueError: In ``init_weights``, if there are no weights, or they do not fit.
    """

    def __init__(
        self, model_name: str, pretrained: bool = False, in_channels: int = 3, **kwargs: Any
    ) -> None:
        if not isinstance(pretrained, bool):
            raise TypeError(
                f'pretrained must be True or False, got {pretrained!r}. Set a local file with '
                'pretrained_cfg_overlay=dict(file=...)'
            )
        super().__init__(model_name, pretrained=False, in_channels=in_channels, **kwargs)
        self.pretrained = pretrained
        self._in_channels = in_channels

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the features of images (N, 3, H, W)."""
        features = super().forward(x)
        if str(getattr(self.timm_model, 'output_fmt', '')).endswith('NHWC'):
            return tuple(one.permute(0, 3, 1, 2) if one.ndim == 4 else one for one in features)
        return features

    def init_weights(self) -> None:
        """Load timm's pretrained weights once if ``pretrained`` is set."""
        if not self.pretrained or self.is_init:
            return super().init_weights()
        from timm.models import load_pretrained  # takes half a second

        config = self.timm_model.pretrained_cfg
        source = config.get('file') or config.get('hf_hub_id') or config.get('url')
        if config.get('file') and not Path(source).is_file():
            raise FileNotFoundError(f'There is no file of pretrained weights at {source}')
        try:
            # The classifier was removed at build, which timm expects for other num_classes.
            load_pretrained(
                self.timm_model,
                config,
                num_classes=0,
                in_chans=self._in_channels,
                filter_fn=_without_classifier,
            )
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f'Invalid pretrained weights of {config["architecture"]} at {source}: {error}'
            ) from error
        self._is_init = True


def _without_classifier(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Select the weights of the backbone; timm does not check for missing keys."""
    check_values(weights, 'the file')
    expected = model.state_dict()
    # Files from before PyTorch 0.4.1 have no num_batches_tracked, which is not used.
    missing = [
        key for key in expected if key not in weights and not key.endswith('num_batches_tracked')
    ]
    if missing:
        raise RuntimeError(
            f'{len(missing)} of {len(expected)} keys are missing: {", ".join(missing[:5])}'
            + (', ...' if len(missing) > 5 else '')
        )
    return {key: value for key, value in weights.items() if key in expected}
