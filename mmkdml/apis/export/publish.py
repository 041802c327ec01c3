"""Publishing a trained ensemble: the students' weights and a config."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config

from mmkdml.apis.output_folder import refuse_existing
from mmkdml.apis.run.comparison import check_own_config
from mmkdml.checkpoint_io import recorded_meta
from mmkdml.files import write_atomically
from mmkdml.inspection.config import classroom_settings, inspect_config, without_pretrained
from mmkdml.models.checkpoints import load_checkpoint_file, load_network, resolve_checkpoint
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.version import __version__
from mmkdml.weight_checks import select_weights


def publish(
    config: Config,
    checkpoint: str | Path,
    out: str | Path,
    force: bool = False,
    use_config: bool = False,
) -> tuple[Path, Path]:
    """Write ``<config>.py`` and ``<config>-<8 digits of its SHA-256>.pth``.

    The checkpoint contains only the weights of the students: no teacher, projector, optimizer or
    log. The config describes a classroom of the students and needs no pretrained weights;
    ``tools/test.py`` computes the same scores with it. Files are written atomically, the config
    last.

    Args:
        config: Config of the run, as read from a file, whose name is kept.
        checkpoint: Checkpoint file, or folder of the run for its best one.
        out: Output folder; created if missing.
        force: Replace published files of the same name.
        use_config: Allow a config with other settings than the run of the folder.

    Returns:
        Paths of the config and the checkpoint.

    Raises:
        FileNotFoundError: If the checkpoint does not exist.
        FileExistsError: If an output file already exists, without ``force``.
        TypeError: If the config does not describe a classroom.
        ValueError: If the checkpoint is not one of a classroom, or does not fit the config.
    """
    path = resolve_checkpoint(checkpoint)
    if Path(checkpoint).is_dir():
        check_own_config(config, checkpoint, use_config)
    out, name = Path(out), Path(config.filename).stem
    new_config = out / f'{name}.py'
    inputs = (config.filename, path)
    refuse_existing(new_config, force, inputs)
    inspection = inspect_config(config)
    if inspection.distiller is None:
        (network,) = inspection.members.values()
        raise TypeError(
            f'{config.filename}: expected a classroom, got {type(network).__name__}. The '
            'checkpoint of a plain network can be used as it is'
        )
    content = _published(inspection.distiller, path)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    new_checkpoint = out / f'{name}-{hashlib.sha256(buffer.getbuffer()).hexdigest()[:8]}.pth'
    refuse_existing(new_checkpoint, force, inputs)
    text = _published_config(config, inspection.distiller).pretty_text
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(new_checkpoint, buffer.getvalue())
    write_atomically(new_config, text.encode())
    return new_config, new_checkpoint


def _published(distiller: KnowledgeDistiller, path: Path) -> dict[str, Any]:
    """Return the content of the published checkpoint; its weights must fit the students."""
    checkpoint = load_checkpoint_file(path)
    weights = select_weights(checkpoint, path)
    if not any(key.startswith('members.') for key in weights):
        raise ValueError(
            f'Invalid checkpoint {path}: expected one of a classroom, with keys that begin with '
            '"members."'
        )
    state_dict = {}
    for name in distiller.student_names:
        student = distiller.named_members()[name]
        load_network(student, path, name)
        state_dict.update(
            {f'members.{name}.{key}': value for key, value in student.state_dict().items()}
        )
    meta = recorded_meta(checkpoint)
    return dict(
        state_dict=state_dict,
        meta=dict(
            mmkdml_version=__version__,
            **{key: meta[key] for key in ('dataset_meta', 'epoch', 'iter') if key in meta},
        ),
    )


def _published_config(config: Config, distiller: KnowledgeDistiller) -> Config:
    settings = config.to_dict()  # with class paths instead of classes
    model = without_pretrained(settings['model'])
    members, preprocessor = classroom_settings({**settings, 'model': model}, distiller)
    settings.update(
        load_from=None,
        resume=False,
        model=dict(
            type='mmkdml.models.KnowledgeDistiller',
            members={name: members[name] for name in distiller.student_names},
            transfers=[],
            students=list(distiller.student_names),  # because a file does not keep dict order
            ensemble=model.get('ensemble'),
            input_size=distiller.input_size,
            data_preprocessor=preprocessor,
        ),
    )
    settings.pop('work_dir', None)
    return Config(settings, filename=config.filename)
