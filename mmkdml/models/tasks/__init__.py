"""The tasks, one file for each framework that members come from."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from mmkdml.models.tasks.base import Task
from mmkdml.models.tasks.classification import ClassificationTask
from mmkdml.models.tasks.segmentation import SegmentationTask

TASKS: tuple[Task, ...] = (ClassificationTask(), SegmentationTask())


def task_of(members: Mapping[str, nn.Module]) -> Task:
    """The task that all members share.

    Raises:
        TypeError: If a member is of no known framework, or the members are of different tasks.
    """
    for task in TASKS:
        if all(isinstance(member, task.member_type) for member in members.values()):
            return task
    known = ', '.join(task.member_type.__name__ for task in TASKS)
    found = ', '.join(f'{name}: {type(member).__name__}' for name, member in members.items())
    raise TypeError(f'The members of a classroom must all be of one of {known}; got {found}')


__all__ = ['TASKS', 'ClassificationTask', 'SegmentationTask', 'Task', 'task_of']
