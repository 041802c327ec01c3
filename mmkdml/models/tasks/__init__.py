"""Tasks, one for each framework that members are from."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import cache

from torch import nn

from mmkdml.models.tasks.base import Task
from mmkdml.models.tasks.classification import ClassificationTask
from mmkdml.models.tasks.data_preprocessor import MultiChannelSegDataPreProcessor
from mmkdml.models.tasks.multi_label import MultiLabelTask
from mmkdml.models.tasks.segmentation import SegmentationTask

TASKS: tuple[Task, ...] = (ClassificationTask(), MultiLabelTask(), SegmentationTask())


@cache
def detection_task() -> Task:
    """Return the task of mmdet's detectors; imports mmdet, which takes seconds."""
    return importlib.import_module('mmkdml.models.tasks.detection').DetectionTask()


def known_tasks() -> tuple[Task, ...]:
    """Return all tasks; that of detectors only if mmdet, which builds them, is imported."""
    return (*TASKS, detection_task()) if 'mmdet.models' in sys.modules else TASKS


def task_of(members: Mapping[str, nn.Module]) -> Task:
    """Return the task of all members.

    Raises:
        TypeError: If a member is not supported, or the members are of different tasks.
    """
    for task in known_tasks():
        if all(map(task.accepts, members.values())):
            return task
    names = dict.fromkeys(kind.__name__ for task in TASKS for kind in task.member_type)
    expected = f'members must all be instances of one of {", ".join([*names, "BaseDetector"])}'
    kinds = {name: type(member).__name__ for name, member in members.items()}
    if all(isinstance(member, ClassificationTask.member_type) for member in members.values()):
        expected = 'the heads of all members must be for one class per image, or for several'
        kinds = {name: type(getattr(one, 'head', None)).__name__ for name, one in members.items()}
    found = ', '.join(f'{name}: {kind}' for name, kind in kinds.items())
    raise TypeError(f'{expected}; got {found}')


__all__ = [
    'TASKS',
    'ClassificationTask',
    'MultiChannelSegDataPreProcessor',
    'MultiLabelTask',
    'SegmentationTask',
    'Task',
    'detection_task',
    'known_tasks',
    'task_of',
]
