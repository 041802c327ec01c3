"""Loading one member's weights from a file, strictly and safely."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from numpy._core import multiarray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def resolve_checkpoint(path: str | Path) -> Path:
    """The checkpoint that is meant: a file itself, or the best one of a run's folder.

    A folder's best checkpoint is its newest ``best_*.pth``; without any, the last one saved.

    Raises:
        FileNotFoundError: If there is neither.
        TypeError: If it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f'a checkpoint must be the path of a file or a folder, got {path!r}')
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        best = sorted(path.glob('best_*.pth'), key=lambda file: file.stat().st_mtime)
        record = path / 'last_checkpoint'
        last = Path(record.read_text(errors='replace').strip()) if record.is_file() else None
        if best:
            return best[-1]
        if last is not None:  # written with the path of the time; the folder may be a copy
            for candidate in (path / last.name, last):
                if candidate.is_file():
                    return candidate
    raise FileNotFoundError(
        f'There is no checkpoint at {path}: expected a file, or the folder of a run with '
        'best_*.pth or last_checkpoint in it'
    )


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """A checkpoint of mmengine or a plain state dict, without running any code it may hold.

    Args:
        path: The file, also of safetensors; or a run's folder (:func:`resolve_checkpoint`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, is damaged, or holds more than weights and mmengine's
            log.
    """
    path = resolve_checkpoint(path)
    try:
        if path.suffix == '.safetensors':
            return _read_safetensors(path)
        _check_sums(path)
        with torch.serialization.safe_globals(_safe_globals()):
            checkpoint = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        # Around its reason torch tells how to let the code in a file run.
        reason = str(error.__context__ if isinstance(error, UnpicklingError) else error)
        reason = reason.partition('. ')[0].rstrip('.')
        raise ValueError(
            f'{path} cannot be loaded as a checkpoint of weights: {reason}. It may be truncated, '
            'damaged, another kind of file, or hold more than weights'
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f'{path} holds a {type(checkpoint).__name__}, not a checkpoint')
    return dict(checkpoint)


def guard_checkpoints() -> None:
    """Makes mmengine read checkpoints as :func:`load_checkpoint_file` does, in all this process.

    Pretrained weights (``init_cfg``), ``load_from`` and what is resumed come through mmengine's own
    loader, which otherwise unpickles a file that holds more than weights.
    """
    os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] = '1'  # downloads, and what asks torch itself
    mmengine_checkpoint.get_torch_safe_globals = _safe_globals  # other places than local files
    CheckpointLoader.register_scheme('', _load_local, force=True)


def _load_local(path: str, map_location: Any = None) -> dict[str, Any]:
    """For mmengine; weights are copied to the device of the network that they are for."""
    return load_checkpoint_file(Path(path).expanduser())


def _safe_globals() -> list[Any]:
    """What mmengine's own checkpoints need: arrays, its log, and what stands for its getattr."""
    arrays = (np.ndarray, np.dtype, multiarray._reconstruct, multiarray.scalar)
    kinds = (type(np.dtype(kind)) for kind in (np.uint32, np.int64, np.float64))
    return [*arrays, *kinds, slice, HistoryBuffer, (_log_method, 'builtins.getattr')]


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Weights, and of the metadata what tools/export.py writes: classes and palette as JSON."""
    with safe_open(path, 'pt') as file:
        meta = {
            key: json.loads(value)
            for key, value in (file.metadata() or {}).items()
            if key in ('classes', 'palette')
        }
    return dict(state_dict=load_file(path), meta=dict(dataset_meta=meta))


def _check_sums(path: Path) -> None:
    """Of each part; torch itself takes flipped bits for weights."""
    if zipfile.is_zipfile(path):  # else it is cut short, or of another kind: torch tells
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()
        if damaged is not None:
            raise ValueError(f'the checksum of its part {damaged} is wrong')


def _log_method(owner: Any, name: str) -> Any:
    """All that ``getattr`` may do in a checkpoint: mmengine's log names its statistics with it."""
    if owner is HistoryBuffer and name in ('min', 'max', 'mean', 'current'):
        return getattr(HistoryBuffer, name)
    raise ValueError(f'it asks for getattr({owner!r}, {name!r})')


def member_weights(checkpoint: Mapping[str, Any], name: str, path: str | Path) -> dict[str, Tensor]:
    """The weights of one member out of a plain network's checkpoint or a distiller's.

    Args:
        checkpoint: As :func:`load_checkpoint_file` gives it.
        name: The member's name.
        path: Of the file, for messages.

    Raises:
        ValueError: If it is a distiller's checkpoint without this member.
    """
    weights = checkpoint.get('state_dict', checkpoint)
    prefix = f'members.{name}.'
    members = sorted({key.split('.')[1] for key in weights if key.startswith('members.')})
    if not members:
        return dict(weights)
    if name not in members:
        raise ValueError(
            f"{path} is a classroom's checkpoint and holds the members {', '.join(members)}, not "
            f'{name!r} (a frozen teacher is not saved with its students)'
        )
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def load_member(member: nn.Module, name: str, path: str | Path) -> None:
    """Loads a member's weights from a file; every key and shape must fit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or keys or shapes do not match; they are named.
    """
    weights = member_weights(load_checkpoint_file(path), name, path)
    expected = member.state_dict()
    problems = [f'missing: {key}' for key in expected if key not in weights]
    problems += [f'unexpected: {key}' for key in weights if key not in expected]
    problems += [
        f'{key}: {tuple(expected[key].shape)} expected, {tuple(weights[key].shape)} in the file'
        for key in expected
        if key in weights and expected[key].shape != weights[key].shape
    ]
    if problems:
        more = f'\n  ... and {len(problems) - 10} more' if len(problems) > 10 else ''
        raise ValueError(
            f'The weights in {path} do not fit the {name} ({type(member).__name__}): another '
            'network or another number of classes?\n  ' + '\n  '.join(problems[:10]) + more
        )
    member.load_state_dict(weights)
