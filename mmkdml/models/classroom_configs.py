"""Access to the config of a classroom, whose distiller determines how it names members.

``KnowledgeDistiller`` has ``members`` and ``frozen`` by name, ``DiversifiedKDMLDistiller`` has
``teacher``, ``students`` and ``teacher_checkpoint``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from mmkdml.modes import STUDENTS
from mmkdml.names import TEACHER


def member_configs(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configs of a classroom's members by name; empty for a plain network."""
    if isinstance(model.get('members'), Mapping):
        return dict(model['members'])
    students = model.get('students')
    members = (
        dict(zip(STUDENTS, students, strict=False)) if isinstance(students, (list, tuple)) else {}
    )
    return members if model.get('teacher') is None else {TEACHER: model['teacher'], **members}


def set_member_config(model: MutableMapping[str, Any], name: str, config: Any) -> None:
    """Replace the config of a member that is not one of the paper's students."""
    holder = model['members'] if isinstance(model.get('members'), Mapping) else model
    holder[name] = config


def frozen_checkpoints(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the checkpoints of a classroom's frozen members by name, None where there is none."""
    frozen = dict(model['frozen']) if isinstance(model.get('frozen'), Mapping) else {}
    if model.get('mode') == 'kd_off' or model.get('teacher_checkpoint') is not None:
        frozen[TEACHER] = model.get('teacher_checkpoint')
    return frozen


def replace_frozen_checkpoints(
    model: MutableMapping[str, Any], convert: Callable[[Any], Any]
) -> None:
    """Apply a function to the checkpoint of each frozen member, in place."""
    if model.get('teacher_checkpoint') is not None:
        model['teacher_checkpoint'] = convert(model['teacher_checkpoint'])
    if isinstance(model.get('frozen'), Mapping):
        model['frozen'] = {name: path and convert(path) for name, path in model['frozen'].items()}


def frozen_checkpoint_option(model: Mapping[str, Any], name: str) -> str:
    """Return the option of a config that has the checkpoint of a frozen member."""
    return 'model.teacher_checkpoint' if model.get('frozen') is None else f'model.frozen.{name}'
