"""Finding a run's checkpoints, and loading weights strictly and safely."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from torch import Tensor, nn

from mmkdml.checkpoint_io import guard_checkpoints, plain_numbers, read_checkpoint
from mmkdml.weight_checks import check_weights, select_weights

__all__ = [
    'guard_checkpoints',
    'load_checkpoint_file',
    'load_member',
    'load_network',
    'member_weights',
    'resolve_checkpoint',
]

_HUB = ('message_hub', 'meta')


def resolve_checkpoint(path: str | Path) -> Path:
    """Find the checkpoint that a path stands for: the file itself, or the best one of a run folder.

    The best checkpoint of a folder is the only ``best_*.pth`` or, of several, the one with the best
    recorded score of the first metric in ``save_best``. Without any, it is the last one saved.

    Raises:
        FileNotFoundError: If there is neither.
        TypeError: If it is not a path.
        ValueError: If there are several ``best_*.pth``, and one has no recorded score or cannot be
            read.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f'a checkpoint must be the path of a file or a folder, got {path!r}')
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        best = sorted(file for file in path.glob('best_*.pth') if file.is_file())
        if best:
            return best[0] if len(best) == 1 else _best_of(best)
        record = path / 'last_checkpoint'
        last = Path(record.read_text(errors='replace').strip()) if record.is_file() else None
        if last is not None:  # written with the path of the time; the folder may be a copy
            for candidate in (path / last.name, last):
                if candidate.is_file():
                    return candidate
    raise FileNotFoundError(
        f'There is no checkpoint at {path}: expected a file, or the folder of a run with '
        'best_*.pth or last_checkpoint in it'
    )


@dataclass
class _Best:
    """A best checkpoint with its score, as recorded in the file itself."""

    path: Path
    metric: str
    score: float
    metrics: list[str]  # all in save_best, in order
    rules: dict[str, str]  # by metric; empty in checkpoints of mmengine's own hook
    iteration: int


def _best_of(files: Sequence[Path]) -> Path:
    found = [_recorded_best(file) for file in files]
    newest = max(found, key=lambda one: one.iteration)
    rivals = [one for one in found if one.metric == newest.metrics[0]] or found
    metric = rivals[0].metric
    rule = newest.rules.get(metric) or _usual_rule(metric or rivals[0].path.stem)
    # Without a rule: a run writes another best checkpoint only if it is better.
    sign = dict(greater=1, less=-1).get(rule, 0)
    return max(rivals, key=lambda one: (sign * one.score, one.iteration)).path


def _recorded_best(path: Path) -> _Best:
    content = plain_numbers({key: one for key, one in read_checkpoint(path).items() if key in _HUB})
    hub, meta = (_dict(content.get(key)) for key in _HUB)
    info = _dict(hub.get('runtime_info'))
    rules = {str(key): str(rule) for key, rule in _dict(info.get('best_rules')).items()}
    # mmengine's keys: best_ckpt of a single metric, best_ckpt_<metric> of several
    suffixes = [key.removeprefix('best_ckpt') for key in map(str, info) if 'best_ckpt' in key]
    metrics = [*rules] or [suffix.removeprefix('_') for suffix in suffixes]
    for suffix in suffixes:
        score: Any = info.get(f'best_score{suffix}')
        iteration: Any = meta.get('iter')
        numbers = isinstance(score, int | float) and isinstance(iteration, int)
        if numbers and Path(str(info[f'best_ckpt{suffix}'])).name == path.name and score == score:
            metric = suffix.removeprefix('_') or metrics[0]
            return _Best(path, metric, float(score), metrics, rules, iteration)
    raise ValueError(
        f'{path.parent} has several best_*.pth, and {path.name} has no recorded score to compare '
        'them by. Give the path of one file instead of the folder'
    )


def _usual_rule(metric: str) -> str:
    """Direction that mmengine assumes for a metric of this name; '' if it knows none."""
    try:
        return CheckpointHook(save_best=metric).rules[0]
    except ValueError:
        return ''


def _dict(value: Any) -> dict[Any, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of mmengine or a plain state dict, without running any code in it.

    Args:
        path: The file, also of safetensors; or a run's folder (:func:`resolve_checkpoint`).

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: See :func:`mmkdml.checkpoint_io.read_checkpoint`.
    """
    return read_checkpoint(resolve_checkpoint(path))


def member_weights(checkpoint: Mapping[str, Any], name: str, path: str | Path) -> dict[str, Tensor]:
    """Select the weights of one member from a plain network's or a classroom's checkpoint.

    Args:
        checkpoint: As :func:`load_checkpoint_file` returns it.
        name: The member's name.
        path: Path of the file, for messages.

    Raises:
        ValueError: If it has no weights, or it is a classroom's checkpoint without this member.
    """
    weights = select_weights(checkpoint, path)
    prefix = f'members.{name}.'
    members = sorted({key.split('.')[1] for key in weights if key.startswith('members.')})
    if not members:
        return weights
    if name not in members:
        raise ValueError(
            f"{path} is a classroom's checkpoint and holds the members {', '.join(members)}, not "
            f'{name!r} (a frozen teacher is not saved with its students)'
        )
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def load_member(member: nn.Module, name: str, path: str | Path) -> None:
    """Load one member's weights from a file: :func:`load_network` with a ``name``."""
    load_network(member, path, name)


def load_network(
    network: nn.Module,
    path: str | Path,
    name: str | None = None,
    content: Mapping[str, Any] | None = None,
) -> None:
    """Load weights into a network; all keys and shapes must match, and all values be finite.

    Args:
        network: A classroom, one of its members, or a plain network.
        path: Checkpoint, or folder of a run for its best one.
        name: The member's name. It finds its weights in a classroom's checkpoint, too. None for all
            of a classroom.
        content: Content of the file, if it was read before.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or if weights do not fit or are NaN or infinite; they
            are named.
    """
    path = resolve_checkpoint(path)
    content = content or read_checkpoint(path)
    weights = member_weights(content, name, path) if name else select_weights(content, path)
    check_weights(network, weights, path, name or 'model of this config')
    network.load_state_dict(weights)
