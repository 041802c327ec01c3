"""Tasks, one for each framework that members are from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmkdml.models.tasks.base import Task
from mmkdml.models.tasks.classification import ClassificationTask
from mmkdml.models.tasks.segmentation import SegmentationTask

TASKS: tuple[Task, ...] = (ClassificationTask(), SegmentationTask())


def task_of(members: Mapping[str, nn.Module]) -> Task:
    """Return the task of all members.

    Raises:
        TypeError: If a member is not supported, or the members are of different tasks.
    """
    for task in TASKS:
        if all(isinstance(member, task.member_type) for member in members.values()):
            return task
    known = ', '.join(task.member_type.__name__ for task in TASKS)
    found = ', '.join(f'{name}: {type(member).__name__}' for name, member in members.items())
    raise TypeError(f'members must all be instances of one of {known}; got {found}')


__all__ = ['TASKS', 'ClassificationTask', 'SegmentationTask', 'Task', 'task_of']
