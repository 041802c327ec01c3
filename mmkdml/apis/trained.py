"""Loading trained models from the folder of a run, or from a config and a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from torch import nn

from mmkdml.apis.run.comparison import check_own_config, own_config_file
from mmkdml.checkpoint_io import recorded_dataset_meta
from mmkdml.inspection.config import use_default_scope, without_pretrained
from mmkdml.models.checkpoints import load_checkpoint_file, load_network, resolve_checkpoint
from mmkdml.models.classroom_configs import frozen_checkpoints, member_configs, set_member_config
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.tasks import task_of
from mmkdml.names import PLAIN
from mmkdml.registry import MODELS


def run_files(run: str | Path, checkpoint: str | Path | None = None) -> tuple[Path, Path]:
    """Find the config and checkpoint of a run.

    Args:
        run: Folder of a run or of a published model, which contains its config; or a config file.
        checkpoint: Checkpoint file, or folder of a run for its best one. Default: the only
            ``*.pth`` of the folder, or its best one.

    Raises:
        FileNotFoundError: If the folder or checkpoint does not exist.
        ValueError: If the folder does not contain exactly one config, unless its ``identity.json``
            names the config of the run; or a config is passed without a checkpoint.
    """
    run = Path(run)
    if run.suffix == '.py':
        if checkpoint is None:
            raise ValueError(
                f'{run}: a config requires a checkpoint. Add one after the config, or pass the '
                'folder of a run'
            )
        return run, resolve_checkpoint(checkpoint)
    config = own_config_file(run)
    if checkpoint is None:
        only = list(run.glob('*.pth'))
        checkpoint = only[0] if len(only) == 1 else run
    return config, resolve_checkpoint(checkpoint)


def split_words(words: Sequence[str]) -> tuple[str, str | None, list[str]]:
    """Split the run at the beginning of a command line from the remaining arguments.

    Args:
        words: Folder of a run and, optionally, a checkpoint file; or a config file (``*.py``) and
            its checkpoint or folder. Further arguments may follow.

    Returns:
        Folder or config, checkpoint or None, and remaining arguments.
    """
    run, *rest = words
    follows = rest and (run.endswith('.py') or rest[0].endswith(('.pth', '.safetensors')))
    return run, rest.pop(0) if follows else None, rest


def split_run(words: Sequence[str]) -> tuple[Path, Path, list[str]]:
    """Split a command line as :func:`split_words`, and find the files of the run.

    Returns:
        Config, checkpoint and remaining arguments.

    Raises:
        FileNotFoundError, ValueError: As of :func:`run_files`.
    """
    run, checkpoint, rest = split_words(words)
    return (*run_files(run, checkpoint), rest)


def find_runs(words: Iterable[str]) -> list[tuple[Path, Path]]:
    """Return the config and checkpoint of each run on a command line.

    Args:
        words: Runs, each as in :func:`split_words`.

    Raises:
        FileNotFoundError, ValueError: As of :func:`run_files`.
    """
    return [run_files(*run) for run in split_runs(words)]


def split_runs(words: Iterable[str]) -> list[tuple[str, str | None]]:
    """Return folder or config, and checkpoint or None, of each run on a command line."""
    rest = list(words)
    runs = []
    while rest:
        run, checkpoint, rest = split_words(rest)
        runs.append((run, checkpoint))
    return runs


def load_trained(config: Config, checkpoint: str | Path, use_config: bool = False) -> nn.Module:
    """Build the model of a config and load its weights.

    Pretrained weights are loaded only for frozen members, which checkpoints do not contain.

    Args:
        config: Config of a classroom, an mmpretrain classifier or an mmseg segmentor.
        checkpoint: Checkpoint file, or folder of the run for its best one.
        use_config: Allow a config with other settings than the run of the folder.

    Returns:
        The model, on the CPU and in eval mode.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        TypeError: If the model is of another kind.
        ValueError: If the checkpoint is invalid or does not fit the model, or the config differs
            from that of the run; see :func:`mmkdml.apis.run.comparison.check_own_config`.
    """
    return load_with_meta(config, checkpoint, use_config)[0]


def load_with_meta(
    config: Config, checkpoint: str | Path, use_config: bool = False
) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load a model as :func:`load_trained`, and the metainfo of its training data.

    Returns:
        The model, and the metainfo in the checkpoint, such as ``classes``; empty if missing.
    """
    path = resolve_checkpoint(checkpoint)
    if Path(checkpoint).is_dir():
        check_own_config(config, checkpoint, use_config, only_prediction=True)
    content = load_checkpoint_file(path)  # before the networks are built
    use_default_scope(config)
    settings = ConfigDict(_without_replaced(config.model))
    if config.get('data_preprocessor') is not None:  # as mmengine's runner does
        settings.setdefault('data_preprocessor', config.data_preprocessor)
    model = MODELS.build(settings)
    if not isinstance(model, KnowledgeDistiller):
        task_of({PLAIN: model})
    load_for_evaluation(model, path, content)
    return model.eval(), recorded_dataset_meta(content)


def load_for_evaluation(
    model: nn.Module, checkpoint: str | Path, content: Mapping[str, Any] | None = None
) -> None:
    """Load the weights of a classroom or plain network to evaluate it.

    They come from the checkpoint's ``state_dict``, which contains the averaged weights after a
    training with mmengine's ``EMAHook``. All keys and shapes must match; values must be finite.

    Args:
        model: The model; changed in place.
        checkpoint: Checkpoint file, or folder of the run for its best one.
        content: Content of the file, if it was already read.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If it does not fit the model, or a frozen member has no weights.
    """
    if isinstance(model, KnowledgeDistiller):
        model.check_frozen_weights()
        load_network(model, checkpoint, content=content)
    else:
        load_network(model, checkpoint, PLAIN, content)


def _without_replaced(model: Mapping[str, Any]) -> dict[str, Any]:
    """Remove pretrained weights from a model's config, except those of frozen members.

    Checkpoints contain the weights of all other members.
    """
    settings = without_pretrained(model)
    originals = member_configs(model)
    for name, path in frozen_checkpoints(model).items():
        if path is None and name in originals:
            set_member_config(settings, name, originals[name])
    return settings
