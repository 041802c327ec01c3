"""Trained models as tools take them: a run's folder, or a config and a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmkdml.inspection.config import use_default_scope, without_pretrained
from mmkdml.models.checkpoints import load_checkpoint_file, load_network, resolve_checkpoint
from mmkdml.models.classroom_configs import frozen_checkpoints, member_configs, set_member_config
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.tasks import task_of
from mmkdml.names import PLAIN
from mmkdml.registry import MODELS


def run_files(run: str | Path, checkpoint: str | Path | None = None) -> tuple[Path, Path]:
    """Config and checkpoint of a run.

    Args:
        run: Folder of a run or of what was published, which holds its config; or a config file.
        checkpoint: File, or folder of a run for its best checkpoint. Default: the folder's own,
            which is its only ``*.pth`` or its best.

    Raises:
        FileNotFoundError: If there is no such folder, or no checkpoint.
        ValueError: If the folder holds no config or several, or a config comes without checkpoint.
    """
    run = Path(run)
    if run.suffix == '.py':
        if checkpoint is None:
            raise ValueError(
                f'{run} is not the folder of a run: name a checkpoint after the config'
            )
        return run, resolve_checkpoint(checkpoint)
    if not run.is_dir():
        raise FileNotFoundError(
            f'There is no folder {run}: expected that of a run, or a config (*.py) and a checkpoint'
        )
    configs = sorted(run.glob('*.py'))
    if len(configs) != 1:
        found = ', '.join(path.name for path in configs) or 'none'
        raise ValueError(
            f'expected one config (*.py) in the folder {run}, got {found}: name a config and then '
            'the folder'
        )
    if checkpoint is None:
        only = list(run.glob('*.pth'))
        checkpoint = only[0] if len(only) == 1 else run
    return configs[0], resolve_checkpoint(checkpoint)


def split_run(words: Sequence[str]) -> tuple[Path, Path, list[str]]:
    """Config and checkpoint of the run that a command line begins with, and the words after it.

    Args:
        words: First the folder of a run, which a checkpoint file of it may follow; or a
            config, ``*.py``, that its checkpoint or folder follows.

    Raises:
        FileNotFoundError: See :func:`run_files`.
        ValueError: See there.
    """
    run, *rest = words
    follows = rest and (run.endswith('.py') or rest[0].endswith(('.pth', '.safetensors')))
    return (*run_files(run, rest.pop(0) if follows else None), rest)


def find_runs(words: Iterable[str]) -> list[tuple[Path, Path]]:
    """Config and checkpoint of each run named on a command line.

    Args:
        words: One run after the other, each as in :func:`split_run`.

    Raises:
        FileNotFoundError: See :func:`run_files`.
        ValueError: See there.
    """
    rest = list(words)
    runs = []
    while rest:
        config, checkpoint, rest = split_run(rest)
        runs.append((config, checkpoint))
    return runs


def load_trained(config: Config, checkpoint: str | Path) -> nn.Module:
    """A config's model with its weights; nothing else is loaded but a frozen member's.

    Args:
        config: Of a classroom, a classifier of mmpretrain or a segmentor of mmseg.
        checkpoint: File, or folder of the run for its best checkpoint.

    Returns:
        The model, on the CPU and in eval mode.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        TypeError: If the model is none of these.
        ValueError: If the checkpoint is none, or does not fit the model.
    """
    return load_with_meta(config, checkpoint)[0]


def load_with_meta(
    config: Config, checkpoint: str | Path
) -> tuple[nn.Module, Mapping[str, Any] | None]:
    """As :func:`load_trained`, and what the checkpoint says of the data set it was trained on.

    Returns:
        The model, and the data set's metainfo, such as ``classes``; None if there is none.
    """
    path = resolve_checkpoint(checkpoint)
    content = load_checkpoint_file(path)  # before the networks are built
    use_default_scope(config)
    settings = ConfigDict(_without_replaced(config.model))
    if config.get('data_preprocessor') is not None:  # as mmengine's runner does
        settings.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(settings)
    if not isinstance(model, KnowledgeDistiller):
        task_of({PLAIN: model})
    load_for_evaluation(model, path, content)
    meta = content.get('meta')
    return model.eval(), meta.get('dataset_meta') if isinstance(meta, Mapping) else None


def load_for_evaluation(
    model: nn.Module, checkpoint: str | Path, content: Mapping[str, Any] | None = None
) -> None:
    """Load the weights with which a classroom or a plain network is evaluated.

    These are the weights in the checkpoint's ``state_dict``, which after a training with mmengine's
    ``EMAHook`` are the average. All keys and shapes must match, and all values be finite.

    Args:
        model: The model; changed in place.
        checkpoint: File, or folder of the run for its best checkpoint.
        content: Content of the file, if it was read before.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If it does not fit the model, or a frozen member has no weights.
    """
    if isinstance(model, KnowledgeDistiller):
        model.check_frozen_weights()
        load_network(model, checkpoint, content=content)
    else:
        load_network(model, checkpoint, PLAIN, content)


def _without_replaced(model: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config without pretrained weights that those of a checkpoint replace.

    A frozen member's weights are not in the checkpoint, so its ``init_cfg`` stays.
    """
    settings = without_pretrained(model)
    originals = member_configs(model)
    for name, path in frozen_checkpoints(model).items():
        if path is None and name in originals:
            set_member_config(settings, name, originals[name])
    return settings
