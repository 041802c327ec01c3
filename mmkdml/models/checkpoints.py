"""Finding the checkpoints of a run, and loading weights strictly and safely."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.hooks import CheckpointHook
from torch import Tensor, nn

from mmkdml.checkpoint_io import plain_numbers, read_checkpoint
from mmkdml.models.input_channels import input_channel_advice
from mmkdml.weight_checks import check_weights, select_weights

_HUB = ('message_hub', 'meta')


def resolve_checkpoint(path: str | Path) -> Path:
    """Find a checkpoint: the file of a path, or the best checkpoint in the folder of a run.

    The best checkpoint is the only ``best_*.pth``, or of several the one with the best recorded
    score of the first metric in ``save_best``. Without ``best_*.pth`` it is the last one saved.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        TypeError: If the argument is not a path.
        ValueError: If one of several ``best_*.pth`` is unreadable or has no recorded score.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f'checkpoint must be the path of a file or a folder, got {path!r}')
    path = Path(path)
    if path.is_file():
        return path
    if path.is_dir():
        best = sorted(file for file in path.glob('best_*.pth') if file.is_file())
        if best:
            return best[0] if len(best) == 1 else _best_of(best)
        record = path / 'last_checkpoint'
        last = Path(record.read_text(errors='replace').strip()) if record.is_file() else None
        if last is not None:  # the recorded path is outdated if the folder was copied
            for candidate in (path / last.name, last):
                if candidate.is_file():
                    return candidate
    raise FileNotFoundError(
        f'There is no checkpoint at {path}: expected a file, or the folder of a run with '
        'best_*.pth or last_checkpoint'
    )


@dataclass
class _Best:
    """Best checkpoint with the score that is recorded in the file."""

    path: Path
    metric: str
    score: float
    metrics: list[str]  # those of save_best, in order
    rules: dict[str, str]  # by metric; empty in checkpoints of mmengine's hook
    iteration: int


def _best_of(files: Sequence[Path]) -> Path:
    found = [_recorded_best(file) for file in files]
    newest = max(found, key=lambda one: one.iteration)
    candidates = [one for one in found if one.metric == newest.metrics[0]] or found
    metric = candidates[0].metric
    rule = newest.rules.get(metric) or _default_rule(metric or candidates[0].path.stem)
    # Without a rule the newest is the best, because a run saves only improvements.
    sign = dict(greater=1, less=-1).get(rule, 0)
    return max(candidates, key=lambda one: (sign * one.score, one.iteration)).path


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
        f'{path.parent} has several best_*.pth, but {path.name} has no recorded score to compare '
        'them. Pass the path of a file instead of the folder'
    )


def _default_rule(metric: str) -> str:
    """Return the rule that mmengine infers from the name of a metric, or '' if there is none."""
    try:
        return CheckpointHook(save_best=metric).rules[0]
    except ValueError:
        return ''


def _dict(value: Any) -> dict[Any, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def load_checkpoint_file(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of mmengine or a state dict without running any code in it.

    Args:
        path: File in the format of PyTorch or safetensors, or folder of a run (see
            :func:`resolve_checkpoint`).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: See :func:`mmkdml.checkpoint_io.read_checkpoint`.
    """
    return read_checkpoint(resolve_checkpoint(path))


def member_weights(checkpoint: Mapping[str, Any], name: str, path: str | Path) -> dict[str, Tensor]:
    """Select the weights of a member from the checkpoint of a plain network or a classroom.

    Raises:
        ValueError: If there are no weights, or a classroom's checkpoint lacks this member.
    """
    weights = select_weights(checkpoint, path)
    prefix = f'members.{name}.'
    members = sorted({key.split('.')[1] for key in weights if key.startswith('members.')})
    if not members:
        return weights
    if name not in members:
        raise ValueError(
            f'{path} has no weights of {name!r}: expected one of the members '
            f'{", ".join(members)} (frozen members are not saved with their students)'
        )
    return {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def load_network(
    network: nn.Module,
    path: str | Path,
    name: str | None = None,
    content: Mapping[str, Any] | None = None,
) -> None:
    """Load weights into a network; all keys and shapes must match, and all values be finite.

    Args:
        network: A classroom, a member, or a plain network.
        path: Checkpoint file, or folder of a run for its best checkpoint.
        name: Name of the member, whose weights are also found in a classroom's checkpoint. None for
            a classroom.
        content: Content of the file, if it has been read already.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a checkpoint, or weights do not fit, are NaN or infinite.
    """
    path = resolve_checkpoint(path)
    content = content or read_checkpoint(path)
    weights = member_weights(content, name, path) if name else select_weights(content, path)
    advice = input_channel_advice(network.state_dict(), weights)
    check_weights(network, weights, path, name or 'model of this config', advice)
    network.load_state_dict(weights)
