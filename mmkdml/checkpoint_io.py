"""Safe reading of checkpoints: only tensors, numbers and strings, never code."""

from __future__ import annotations

import json
import os
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from numpy._core import multiarray
from safetensors import safe_open
from safetensors.torch import load_file

from mmkdml.weight_checks import check_values

# No longdouble, whose bytes are platform-specific.
_NUMERIC = (
    np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64,
    np.float16, np.float32, np.float64, np.complex64, np.complex128,
)  # fmt: skip

# mmengine's function, which guard_checkpoints replaces.
_LOAD: Any = CheckpointLoader.load_checkpoint.__func__
_ENCODE = object()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint without running code that it may contain.

    Args:
        path: File written by mmengine or ``torch.save``, or a ``.safetensors`` file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is damaged, compressed, not a checkpoint, or contains objects other
            than tensors, numbers, strings and mmengine's log.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no checkpoint at {path}: expected a file')
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path)
        _check_archive(path)
        with torch.serialization.safe_globals(_safe_globals()):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many types for invalid files
        # torch wraps its reason in advice to disable the check.
        reason = str(error.__context__ if isinstance(error, UnpicklingError) else error)
        reason = reason.partition('. ')[0].rstrip('.')
        raise ValueError(
            f'{path} is not a valid checkpoint: {reason}. It may be truncated, damaged, of another '
            'format, or contain objects other than weights'
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(
            f'{path} is not a valid checkpoint: expected a dict, got {type(checkpoint).__name__}'
        )
    return dict(checkpoint)


def recorded_classes(checkpoint: Mapping[str, Any]) -> Any:
    """Return the class names that mmengine has recorded in a checkpoint, None if there are none."""
    return recorded_dataset_meta(checkpoint).get('classes')


def recorded_dataset_meta(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the metainfo of the training data in a checkpoint, empty if there is none."""
    dataset_meta = recorded_meta(checkpoint).get('dataset_meta')
    return dataset_meta if isinstance(dataset_meta, Mapping) else {}


def recorded_meta(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the ``meta`` that mmengine has recorded in a checkpoint, empty if there is none."""
    meta = checkpoint.get('meta')
    return meta if isinstance(meta, Mapping) else {}


def guard_checkpoints() -> None:
    """Make mmengine read checkpoints with :func:`read_checkpoint`, everywhere in the process.

    mmengine reads pretrained weights (``init_cfg``), ``load_from`` and resumed checkpoints with its
    own loader, which falls back to unpickling a file that ``weights_only`` refuses.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # for downloads and direct torch.load
    mmengine_checkpoint.get_torch_safe_globals = _safe_globals  # for files that are not local
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.load_checkpoint = classmethod(_load_and_log)


def plain_numbers(value: Any) -> Any:
    """Return a copy of nested containers with NumPy scalars and string arrays as Python objects."""
    if isinstance(value, np.longdouble):  # whose item() is a longdouble
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in 'OSU':
        return plain_numbers(value.tolist())
    if type(value) in (dict, OrderedDict):
        return type(value)((plain_numbers(k), plain_numbers(one)) for k, one in value.items())
    if type(value) in (list, tuple):
        return type(value)(plain_numbers(one) for one in value)
    return value


def _load_and_log(
    cls: Any, filename: str, map_location: Any = None, logger: Any = None
) -> dict[str, Any]:
    """Load a checkpoint; without a logger, mmengine would print where it is read."""
    return _LOAD(cls, filename, map_location, logger or 'current')


def load_from_local(path: str, map_location: Any = None) -> dict[str, Any]:
    """Load a local file for mmengine, which moves the weights to the network's device.

    mmengine logs the part of the name after ``load_from_`` as the backend.
    """
    checkpoint = read_checkpoint(Path(path).expanduser())
    check_values(checkpoint.get('state_dict', checkpoint), path)
    return checkpoint


def _safe_globals() -> list[Any]:
    """Return the globals that checkpoints of mmengine need, with restricted dtype and getattr."""
    kinds = {type(np.dtype(kind)) for kind in _NUMERIC}
    functions = {
        f'{module}.{function.__name__}': function
        for module in ('numpy._core.multiarray', 'numpy.core.multiarray')  # NumPy 2 and 1
        for function in (multiarray._reconstruct, multiarray.scalar)
    }
    named = [(function, name) for name, function in functions.items()]
    restricted = [(_numeric_dtype, 'numpy.dtype'), (_log_method, 'builtins.getattr')]
    return [np.ndarray, *kinds, *named, *restricted, slice, HistoryBuffer]


def _numeric_dtype(name: Any, *args: Any) -> np.dtype[Any]:
    """Build a dtype like ``np.dtype``, but only of numbers and bool."""
    dtype = np.dtype(name, *args)
    if dtype.type not in _NUMERIC:
        raise ValueError(f'expected NumPy data of a numeric dtype, got {dtype}')
    return dtype


def _log_method(owner: Any, name: str) -> Any:
    """Restrict ``getattr`` to the statistics methods that the pickles of mmengine's log name."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'it calls getattr({owner!r}, {name!r})')


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Read weights, and classes and palette (JSON) from the metadata of tools/export.py."""
    with safe_open(path, 'pt') as file:
        meta = {
            key: json.loads(value)
            for key, value in (file.metadata() or {}).items()
            if key in ('classes', 'palette')
        }
    return dict(state_dict=load_file(path), meta=dict(dataset_meta=meta))


def _check_archive(path: Path) -> None:
    """Check compression, size and checksum of every part, because torch does not."""
    if not zipfile.is_zipfile(path):  # written by PyTorch < 1.6, or not a checkpoint
        with path.open('rb') as pickles:
            if pickles.read(4) == b'PK\x03\x04':
                raise ValueError('the archive is truncated')
            pickles.seek(0)
            for _ in range(4):  # magic number, protocol, system, content
                _check_pickle(pickles)
        return
    size = path.stat().st_size
    with zipfile.ZipFile(path) as file:
        parts = file.infolist()
        for part in parts:
            if part.compress_type != zipfile.ZIP_STORED or part.compress_size != part.file_size:
                raise ValueError(
                    f'part {part.filename} is compressed to {part.compress_size:,} of '
                    f'{part.file_size:,} bytes, but torch.save never compresses'
                )
        declared = sum(part.file_size for part in parts)
        if declared > size:
            raise ValueError(f'its parts declare {declared:,} bytes, the file has {size:,}')
        damaged = file.testzip()
        for part in parts:
            if part.filename.endswith('data.pkl'):
                _check_pickle(file.read(part))
    if damaged is not None:
        raise ValueError(f'wrong checksum of part {damaged}')


def _check_pickle(pickle: bytes | BinaryIO) -> None:
    """Refuse calls that could exhaust the memory: torch allows ``bytearray(size)`` and any codec.

    Bytes are pickled as ``_codecs.encode(text, 'latin1')``, whose result cannot be encoded again.
    """
    memo: dict[Any, Any] = {}
    value, expected = None, ''
    for opcode, arg, _ in pickletools.genops(pickle):
        if 'PUT' in opcode.name:
            memo[arg] = value
            continue
        value = memo.get(arg) if 'GET' in opcode.name else arg if 'UNICODE' in opcode.name else None
        if opcode.name == 'GLOBAL' and str(arg).endswith(' bytearray'):
            raise ValueError('it creates a bytearray, which checkpoints do not contain')
        if opcode.name == 'GLOBAL' and arg == '_codecs encode':
            value = _ENCODE
        allowed = dict(text=isinstance(value, str), codec=value == 'latin1')
        allowed['pair'] = opcode.name == 'TUPLE2'
        if expected and not allowed[expected]:
            raise ValueError('it encodes values other than text as latin1')
        following = dict(text='codec', codec='pair', pair='')
        expected = 'text' if value is _ENCODE else following.get(expected, '')
