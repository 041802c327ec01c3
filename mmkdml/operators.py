"""Replacements for modules that mmdet and mmseg import: mmcv's compiled operators, and imgaug.

mmcv's wheels for a CPU, and its source distribution built without PyTorch, contain no operators.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.nms import non_maximum_suppression
from mmkdml.functional.vectors import full_precision

# Operators without a replacement: what needs them, and what to do instead.
ANOTHER = 'Use another network'
NEEDED_FOR = {
    'deform_conv': ('deformable convolution, as in VFNet, TOOD and RepPoints', ANOTHER),
    'modulated_deform_conv': ('deformable convolution, as in DCNv2 and VFNet', ANOTHER),
    'ms_deform_attn': ('deformable attention on a GPU, as in Deformable DETR', ANOTHER),
    'roi_align': (
        'RoIAlign, as in Faster R-CNN',
        "Set roi_layer=dict(type='RoIAlign', use_torchvision=True, ...)",
    ),
}


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int = 0) -> Tensor:
    """Select boxes with torchvision's operator, or without one if it is missing on the device.

    Args and return value are those of
    :func:`~mmkdml.functional.nms.non_maximum_suppression`.
    """
    if not offset:
        try:
            return torch.ops.torchvision.nms(boxes, scores, iou_threshold)
        except NotImplementedError:  # torchvision has no operator for this device or type
            pass
    return non_maximum_suppression(boxes, scores, iou_threshold, offset)


def _sides(
    logits: Tensor, target: Tensor, weight: Tensor, alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits of being right, the signs that turn logits into them, and the weights."""
    positive = target[:, None] == torch.arange(logits.shape[1], device=target.device)
    sign = positive.to(torch.int8) * 2 - 1
    factor = torch.where(positive, alpha, 1 - alpha)
    if weight.numel():
        factor = factor * full_precision(weight)[target][:, None]
    return full_precision(logits) * sign, sign, factor


def sigmoid_focal_loss_forward(
    logits: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the focal loss (Lin et al. 2017, equation 5) of each logit, as mmcv's operator does.

    Args:
        logits: (N, K).
        target: Class of each row, (N,), of type int64; K for the background.
        weight: Weight of each class, (K,), or empty: all 1.
        output: (N, K); the loss is written into it.
        gamma: Exponent of the modulating factor, >= 0.
        alpha: Weight of positive logits, in [0, 1]; negative ones weigh ``1 - alpha``.
    """
    right, _, factor = _sides(logits, target, weight, alpha)
    output.copy_(-factor * torch.sigmoid(-right) ** gamma * F.logsigmoid(right))


def sigmoid_focal_loss_backward(
    logits: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Compute the derivative of each focal loss with respect to its logit.

    Args: as :func:`sigmoid_focal_loss_forward`; the derivative is written into ``grad_input``.
    """
    right, sign, factor = _sides(logits, target, weight, alpha)
    wrong = torch.sigmoid(-right)
    slope = gamma * torch.sigmoid(right) * F.logsigmoid(right) - wrong
    grad_input.copy_(sign * factor * wrong**gamma * slope)


class MissingModule(ModuleType):
    """Module in which every name exists, as a function that raises ``RuntimeError``.

    Modules that only some networks or transforms need can be imported then.
    """

    def __init__(self, name: str, error: Callable[[str], str]) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, loader=None)
        self.__error = error

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__'):
            raise AttributeError(name)

        def function(*args: Any, **kwargs: Any) -> None:
            raise RuntimeError(self.__error(name))

        return function


def mmcv_operators() -> MissingModule:
    """Build a replacement for mmcv's compiled module: NMS, the focal loss, else errors."""

    def error(name: str) -> str:
        use, instead = NEEDED_FOR.get(name.removesuffix('_forward'), ('this network', ANOTHER))
        return (
            f'Missing operator {name} of mmcv, needed for {use}: expected an mmcv with compiled '
            f'operators, got one without. {instead}, or build mmcv from source with its operators'
        )

    module = MissingModule('mmcv._ext', error)
    vars(module).update(
        nms=nms,
        sigmoid_focal_loss_forward=sigmoid_focal_loss_forward,
        sigmoid_focal_loss_backward=sigmoid_focal_loss_backward,
        # mmcv's report of the environment calls them.
        get_compiler_version=lambda: 'n/a',
        get_compiling_cuda_version=lambda: 'n/a',
    )
    return module


def imgaug_modules() -> dict[str, MissingModule]:
    """Build a replacement for the modules of imgaug that mmdet imports.

    Only mmdet's transform ``ImageAug`` of lanes calls them. imgaug needs an older NumPy.
    """

    def error(name: str) -> str:
        return (
            'Missing package for the transform ImageAug of mmdet: imgaug is not '
            'installed. Use another transform'
        )

    names = ('', '.augmenters', '.augmentables', '.augmentables.lines', '.augmentables.segmaps')
    modules = {f'imgaug{name}': MissingModule(f'imgaug{name}', error) for name in names}
    vars(modules['imgaug'])['augmenters'] = modules['imgaug.augmenters']
    return modules
