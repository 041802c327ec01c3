"""One graph from pixels to answer, for ONNX and ``torch.export``."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmkdml.apis.export.source import Source

Answers = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""RGB images (N, 3, H, W), uint8 -> scores (N, K, ...) in [0, 1] and labels (N, ...)."""

#: No backbone of MMSegmentation reduces maps by more; torch.export cannot trace any size at all.
STRIDE = 32
INPUT, OUTPUTS = 'images', ('scores', 'labels')


def require(module: str) -> Any:
    """A module of the extra ``export``.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this export needs {error.name}: pip install 'mmkdml[export]', or choose another "
            'format'
        ) from error


class ExportedNetwork(nn.Module):
    """Preprocessing, the networks, softmax or sigmoid, the ensemble's rule and the threshold.

    Images are RGB with values 0 to 255, (N, 3, H, W), uint8, at the size that the test pipeline
    gives them. Scores are probabilities per class (N, K) or (N, K, H, W), one for the foreground if
    the networks have one logit per pixel; labels are class indices (N,) or (N, H, W), int64. With
    an ensemble by votes the scores are shares of votes. The source's networks take no gradients any
    more.
    """

    def __init__(self, source: Source) -> None:
        super().__init__()
        self.members = nn.ModuleList(source.members.values())
        self.ensemble, self.threshold = source.ensemble, source.threshold
        preprocessors = [source.preprocessor_of(name) for name in source.members]
        shared = all(one is preprocessors[0] for one in preprocessors)
        self.normalizations = nn.ModuleList(
            _Normalization(one) for one in (preprocessors[:1] if shared else preprocessors)
        )
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, H, W), uint8 -> scores and labels."""
        inputs = [normalize(images) for normalize in self.normalizations]
        if len(inputs) < len(self.members):
            inputs *= len(self.members)
        probabilities = torch.stack(list(map(_probabilities, self.members, inputs)))
        return self.ensemble(probabilities, self.threshold)


class _Normalization(nn.Module):
    """A data preprocessor's channel order and normalization, of RGB images."""

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessor: Any) -> None:
        super().__init__()
        # The frameworks read images as BGR, and the preprocessor may turn them to RGB.
        self.as_bgr = not (
            getattr(preprocessor, 'to_rgb', False)
            or getattr(preprocessor, '_channel_conversion', False)
        )
        for name, neutral in (('mean', 0.0), ('std', 1.0)):
            value = getattr(preprocessor, name, torch.full((1, 1, 1), neutral))
            self.register_buffer(name, value.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        inputs = images.flip(1) if self.as_bgr else images
        return (inputs.float() - self.mean) / self.std


def export_program(network: ExportedNetwork, source: Source) -> torch.export.ExportedProgram:
    """Traces the network with any batch size and, for segmentation, any size of image.

    Height and width are multiples of what the preprocessor pads to (32 for the U-Nets) from twice
    that on: torch.export takes a map of one pixel for a case of its own.

    Raises:
        ValueError: If a network cannot be traced.
    """
    height, width = source.inspection.input_size
    sizes: dict[int, Any] = {0: torch.export.Dim('batch', min=1)}
    if source.segments:
        divisor = size_divisor(source)
        sizes[2], sizes[3] = (
            divisor * torch.export.Dim(name, min=2) for name in ('rows', 'columns')
        )
        # Two sizes, for one might be taken for the other where they are equal.
        height, width = (divisor * max(-(-side // divisor), 2) for side in (height, width))
        width += divisor
    images = torch.zeros(2, 3, height, width, dtype=torch.uint8)
    try:
        with torch.inference_mode(False), torch.no_grad():
            return torch.export.export(network, (images,), dynamic_shapes=(sizes,))
    except Exception as error:  # torch raises its own kinds, and whatever the network does
        raise ValueError(f'torch.export cannot trace {source.name}: {_reason(error)}') from error


def size_divisor(source: Source) -> int:
    """Return the number that height and width of a segmentor's images must be multiples of.

    That is what the preprocessor pads them to, or :data:`STRIDE` where it does not pad.
    """
    test_cfg = getattr(source.preprocessor, 'test_cfg', None) or {}
    return int(test_cfg.get('size_divisor') or STRIDE)


def sizes_in_words(source: Source) -> str:
    """Which heights and widths the graph takes."""
    if source.segments:
        divisor = size_divisor(source)
        return f'multiples of {divisor} from {2 * divisor} on'
    return '{}x{}'.format(*source.inspection.input_size)


def check_sizes(source: Source, images: Iterable[np.ndarray]) -> None:
    """Whether the graph takes these images, each (3, H, W).

    Raises:
        ValueError: If one has another size.
    """
    divisor = size_divisor(source)
    for height, width in {image.shape[1:] for image in images}:
        fits = (
            min(height, width) >= 2 * divisor and not (height % divisor or width % divisor)
            if source.segments
            else (height, width) == source.inspection.input_size
        )
        if not fits:
            raise ValueError(
                f'the test pipeline gives an image of {height}x{width}, but the graph of '
                f'{source.name} takes {sizes_in_words(source)}: let the pipeline resize to that'
            )


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """Writes an ONNX model with the input ``images`` and the outputs ``scores`` and ``labels``."""
    for module in ('onnx', 'onnxscript', 'onnxruntime'):
        require(module)
    with _onnx_errors(path), warnings.catch_warnings():  # of what torch itself calls
        warnings.simplefilter('ignore', FutureWarning)
        torch.onnx.export(
            program,
            (),
            str(path),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            external_data=False,
            verbose=False,
        )


@contextmanager
def _onnx_errors(path: Path) -> Iterator[None]:
    """Convert errors of torch and onnxruntime to one line.

    Raises:
        ValueError: In place of any other error.
    """
    try:
        yield
    except Exception as error:  # of many types, with graphs of many lines
        raise ValueError(
            f'{path.stem} is not supported as ONNX ({_reason(error)}). Choose --format '
            'torch-export, which has all operators of PyTorch'
        ) from error


def _reason(error: BaseException) -> str:
    """Return the root cause of an error, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), '')
    return f'{type(error).__name__}: {line[:200]}'


def quantise(path: Path, out: Path, images: Iterable[np.ndarray]) -> None:
    """Writes an ONNX model whose convolutions and matrix products are in int8.

    Weights are scaled by channel, activations as they are on the calibration images.

    Args:
        path: Of :func:`write_onnx`.
        out: File to write.
        images: For calibration, each (3, H, W), uint8; not those it is measured on.
    """
    quantization = require('onnxruntime.quantization')
    prepared = out.with_suffix('.prepared.onnx')
    try:
        require('onnxruntime.quantization.shape_inference').quant_pre_process(
            str(path), str(prepared), skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(out),
            _Calibration(images),
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
        )
    finally:
        prepared.unlink(missing_ok=True)


class _Calibration:
    """Hands images to onnxruntime one by one."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input, None after the last one."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def network_answers(network: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Answers:
    """Answers of a network in PyTorch."""

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            scores, labels = network(torch.from_numpy(images))
        return scores.numpy(), labels.numpy()

    return answer


def file_answers(path: Path) -> Answers:
    """Answers of an exported file, ``.onnx`` by onnxruntime on the CPU or ``.pt2`` by PyTorch."""
    if path.suffix != '.onnx':
        return network_answers(torch.export.load(path).module())
    options = require('onnxruntime').SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Or its threads would go on spinning after an answer, and slow down who is timed next.
    options.add_session_config_entry('session.force_spinning_stop', '1')
    runtime = require('onnxruntime')
    with _onnx_errors(path):
        session = runtime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])

    def answer(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with _onnx_errors(path):
            return tuple(session.run(list(OUTPUTS), {INPUT: images}))

    return answer


def _probabilities(member: Any, inputs: Tensor) -> Tensor:
    logits = member(inputs, mode='tensor')
    if not isinstance(logits, Tensor) or logits.ndim not in (2, 4):
        raise ValueError(
            f'expected logits (N, K) or (N, K, H, W) of {type(member).__name__}, got '
            f'{type(logits).__name__}: a head with another output cannot be exported'
        )
    if logits.ndim == 4:
        logits = F.interpolate(
            logits, inputs.shape[2:], mode='bilinear', align_corners=member.align_corners
        )
    if logits.shape[1] > 1:
        return logits.softmax(dim=1)
    positive = logits.sigmoid()
    return positive if logits.ndim == 4 else torch.cat([1 - positive, positive], dim=1)
