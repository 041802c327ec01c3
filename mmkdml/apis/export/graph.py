"""Networks, preprocessing and ensemble as one graph, for ONNX and ``torch.export``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.apis.export.source import ExportSource
from mmkdml.models.ensembles import per_class
from mmkdml.models.tasks.segmentation import last_head, map_of_logits
from mmkdml.optional import require

PredictFn = Callable[[np.ndarray], tuple[np.ndarray, ...]]
"""Maps images (N, C, H, W), with C = 3 RGB, to scores (N, K, ...) in [0, 1] and labels (N, ...).

For detectors, to the outputs of :class:`~mmkdml.apis.export.detection_graph.ExportedDetector`.
"""

#: Size divisor without padding: the largest stride of the backbones in MMSegmentation.
STRIDE = 32
INPUT, OUTPUTS = 'images', ('scores', 'labels')


def _require(module: str) -> ModuleType:
    return require(module, extra='export', purpose='ONNX files')


class ExportedNetwork(nn.Module):
    """Preprocessing, networks, softmax or sigmoid, ensemble rule and threshold in one module.

    It maps images (N, C, H, W), RGB or with the channels of the files, of the type and size that
    the test pipeline returns (mostly uint8), to scores and labels.
    Scores are class probabilities, (N, K) or (N, K, H, W), with K = 1 for networks with a single
    foreground logit; a voting ensemble returns shares of votes. Labels are class indices, (N,) or
    (N, H, W), int64; of multi-label networks (N, K), 1 for each class that is present. Gradients of
    the source's networks are disabled.

    Attributes:
        outputs: Names of the outputs.
        onnx_operators: See :func:`write_onnx`.
    """

    outputs: tuple[str, ...] = OUTPUTS
    onnx_operators: Mapping[Any, Callable[..., Any]] = MappingProxyType({})

    def __init__(self, source: ExportSource) -> None:
        super().__init__()
        self.members = nn.ModuleList(source.members.values())
        self.multi_label, self.threshold = source.inspection.task.multi_label, source.threshold
        self.ensemble = per_class(source.ensemble) if self.multi_label else source.ensemble
        preprocessors = [source.preprocessor_of(name) for name in source.members]
        shared = all(one is preprocessors[0] for one in preprocessors)
        self.normalizations = nn.ModuleList(
            _Normalization(one) for one in (preprocessors[:1] if shared else preprocessors)
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute scores and labels of images (N, C, H, W)."""
        inputs = [normalize(images) for normalize in self.normalizations]
        if len(inputs) < len(self.members):
            inputs *= len(self.members)
        probabilities = torch.stack(
            [
                _probabilities(member, own, self.multi_label)
                for member, own in zip(self.members, inputs, strict=True)
            ]
        )
        return self.ensemble(probabilities, self.threshold)


def exported_network(source: ExportSource) -> ExportedNetwork:
    """Build the module that is exported.

    Raises:
        ValueError: If an exported graph does not support the networks.
    """
    if source.detects:  # imports mmdet
        module = importlib.import_module('mmkdml.apis.export.detection_graph')
        return module.ExportedDetector(source)
    return ExportedNetwork(source)


class _Normalization(nn.Module):
    """Channel order and normalization of a data preprocessor, applied to RGB or other images."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        # The frameworks read images as BGR, and the preprocessor may convert them to RGB.
        self.as_bgr = not (
            getattr(preprocessor, 'to_rgb', False)
            or getattr(preprocessor, '_channel_conversion', False)
        )
        for name, neutral in (('mean', 0.0), ('std', 1.0)):
            value = getattr(preprocessor, name, torch.full((1, 1, 1), neutral))
            self.register_buffer(name, value.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        inputs = images.flip(1) if self.as_bgr and images.shape[1] == 3 else images
        return (inputs.float() - self.mean) / self.std


def export_program(network: ExportedNetwork, source: ExportSource) -> torch.export.ExportedProgram:
    """Trace the network with a dynamic batch size and, for segmentation, dynamic image sizes.

    Heights and widths must be multiples of :func:`size_divisor`, at least twice as large, because
    torch.export specializes feature maps of one pixel.

    Raises:
        ValueError: If tracing fails.
    """
    height, width = source.inspection.input_size
    sizes: dict[int, Any] = {0: torch.export.Dim('batch', min=1)}
    if source.segments:
        divisor = size_divisor(source)
        sizes[2], sizes[3] = (
            divisor * torch.export.Dim(name, min=2) for name in ('rows', 'columns')
        )
        # Equal height and width would be traced as the same dimension.
        height, width = (divisor * max(-(-side // divisor), 2) for side in (height, width))
        width += divisor
    images = torch.zeros(2, source.channels, height, width, dtype=getattr(torch, source.dtype))
    try:
        with torch.inference_mode(False), torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=(sizes,))
    except Exception as error:  # tracing and the network may raise anything
        raise ValueError(f'torch.export failed for {source.name}: {_reason(error)}') from error


def size_divisor(source: ExportSource) -> int:
    """Return the preprocessor's size divisor, or :data:`STRIDE` if it does not pad.

    The height and width of a segmentor's images must be multiples of it.
    """
    test_cfg = getattr(source.preprocessor, 'test_cfg', None) or {}
    return int(test_cfg.get('size_divisor') or STRIDE)


def sizes_in_words(source: ExportSource) -> str:
    """Describe the heights and widths that the graph accepts."""
    if source.segments:
        divisor = size_divisor(source)
        return f'multiples of {divisor}, at least {2 * divisor}'
    return '{}x{}'.format(*source.inspection.input_size)


def check_sizes(source: ExportSource, images: Iterable[np.ndarray]) -> None:
    """Raise ValueError if the graph does not accept the size of an image (C, H, W)."""
    divisor = size_divisor(source)
    for height, width in {image.shape[1:] for image in images}:
        fits = (
            min(height, width) >= 2 * divisor and not (height % divisor or width % divisor)
            if source.segments
            else (height, width) == source.inspection.input_size
        )
        if not fits:
            fix = 'Resize the images in the pipeline'
            if source.detects:
                fix = "With keep_ratio=True, add dict(type='mmdet.Pad', size=(W, H)) after resizing"
            raise ValueError(
                f'Invalid image size for {source.name}: expected {sizes_in_words(source)}, got '
                f'{height}x{width} from the test pipeline. {fix}'
            )


def write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    outputs: Sequence[str] = OUTPUTS,
    operators: Mapping[Any, Callable[..., Any]] | None = None,
) -> None:
    """Write an ONNX model with the input ``images``.

    Args:
        program: Return value of :func:`export_program`.
        path: File to write.
        outputs: Names of the outputs.
        operators: Functions that build operators which torch does not convert.
    """
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        _require(module)
    with _onnx_errors(path), warnings.catch_warnings():  # from torch's own code
        warnings.simplefilter('ignore', FutureWarning)
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(outputs),
            custom_translation_table=dict(operators or {}),
            external_data=False,
            verbose=False,
        )


@contextmanager
def _onnx_errors(path: Path) -> Iterator[None]:
    """Convert errors of torch and onnxruntime to a ValueError of one line."""
    try:
        yield
    except Exception as error:  # of many types, with long graphs in the message
        raise ValueError(
            f'{path.stem} is not supported as ONNX ({_reason(error)}). Choose --format '
            'torch-export, which supports all operators'
        ) from error


def _reason(error: BaseException) -> str:
    """Return the root cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return f'{type(error).__name__}: {line[:200]}'


def network_predictor(network: Callable[[Tensor], tuple[Tensor, ...]]) -> PredictFn:
    """Wrap a PyTorch network."""

    def predict(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(images))
        return tuple(output.numpy() for output in outputs)

    return predict


def file_predictor(path: Path) -> PredictFn:
    """Load an exported file: ``.onnx`` with onnxruntime on the CPU, or ``.pt2`` with PyTorch."""
    if path.suffix != '.onnx':
        return network_predictor(torch.export.load(path).module())
    runtime = _require('onnxruntime')
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Threads that keep spinning after a call would slow down the next measurement.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    with _onnx_errors(path):
        session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def predict(images: np.ndarray) -> tuple[np.ndarray, ...]:
        with _onnx_errors(path):
            return tuple(session.run(None, {INPUT: images}))

    return predict


def _probabilities(member: Any, inputs: Tensor, multi_label: bool) -> Tensor:
    logits = member(inputs, mode='tensor')
    if hasattr(member, 'decode_head'):
        logits = map_of_logits(last_head(member), logits)
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
        raise ValueError(
            f'Unsupported head of {type(member).__name__}: expected logits (N, K) or '
            '(N, K, H, W), got another output. Export another member'
        )
    if logits.ndim == 4:
        logits = F.interpolate(
            logits, inputs.shape[2:], mode='bilinear', align_corners=member.align_corners
        )
    if multi_label:
        return logits.sigmoid()
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    positive = logits.sigmoid()
    return positive if logits.ndim == 4 else torch.cat([1 - positive, positive], dim=1)
