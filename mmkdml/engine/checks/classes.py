"""Check that heads, frozen weights and data use the same classes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmkdml.checkpoint_io import recorded_classes
from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.names import MULTI_LABEL, named_class
from mmkdml.registry import HOOKS

_HEADS = ('head', 'decode_head', 'bbox_head')


@HOOKS.register_module()
class ClassesHook(Hook):
    """Check before training or testing that networks and data have the same classes.

    A head needs an output for each class of the data set; extra outputs only give a warning, except
    in detectors and segmentors, which would predict boxes or pixels of no class. A frozen member
    that was trained with another class order would teach wrong labels. Images with several classes
    need heads that do not apply a softmax over them.

    Raises:
        ValueError: If a head has too few classes, or that of a detector or segmentor too many; or
            predicts one class per image for a data set with several; or a frozen member was trained
            with another class order.
    """

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Check heads and frozen members against the training data."""
        dataset, model = runner.train_dataloader.dataset, unwrap_model(runner.model)
        classes = _classes(dataset)
        _check_heads(model, classes)
        _check_multi_label(model, dataset)
        for name, trained in getattr(model, 'frozen_classes', {}).items():
            _check_order(classes, trained, f'the frozen {name} in {model.frozen_files[name]}')

    @raise_in_all_processes()
    def before_test(self, runner: Runner) -> None:
        """Check heads against the test data."""
        dataset, model = runner.test_dataloader.dataset, unwrap_model(runner.model)
        _check_heads(model, _classes(dataset))
        _check_multi_label(model, dataset)


def check_class_order(dataset: Any, checkpoint: Mapping[str, Any], where: str) -> None:
    """Check that the classes shared by a checkpoint and a data set have the same indices.

    Nothing is checked if one of them does not name its classes.

    Args:
        dataset: Data set with its classes in ``metainfo``.
        checkpoint: Content of a checkpoint.
        where: Description of the checkpoint for messages.

    Raises:
        ValueError: If the index of a class differs.
    """
    _check_order(_classes(dataset), recorded_classes(checkpoint), where)


def _check_order(classes: Any, trained: Any, where: str) -> None:
    if not (_are_names(classes) and _are_names(trained)):
        return
    moved = [
        name
        for index, name in enumerate(trained)
        if name in classes and list(classes).index(name) != index
    ]
    if moved:
        raise ValueError(
            f'Invalid class order of the data set: expected {tuple(trained)}, as in the training '
            f'of {where}, got {tuple(classes)}, which changes the index of {", ".join(moved)}. Use '
            'the same metainfo and the split files made with it'
        )
    if {*trained} != {*classes}:
        print_log(
            f'{where} was trained on the classes {tuple(trained)}, the data set has '
            f'{tuple(classes)}',
            'current',
            logging.WARNING,
        )


def _check_heads(model: Any, classes: Sequence[str] | None) -> None:
    if not _are_names(classes):
        return
    number = len(classes)
    for name, module in model.named_modules():
        outputs = _outputs(module)
        if name.rpartition('.')[2] not in _HEADS or not isinstance(outputs, int):
            continue
        text = f'{name}.num_classes: expected {number} as in the data set, got {outputs}'
        if outputs > number and name.rpartition('.')[2] != _HEADS[0]:
            raise ValueError(f'{text}. Set num_classes of the head, or metainfo of the data set')
        if outputs < number:
            missing = ', '.join(named_class(index, classes) for index in range(outputs, number))
            raise ValueError(
                f'{text}, without an output for {missing}. Set num_classes of the head, or '
                'metainfo of the data set'
            )
        if outputs > number:
            print_log(f'{text}. The extra outputs are not trained', 'current', logging.WARNING)


def _check_multi_label(model: Any, dataset: Any) -> None:
    if not (getattr(dataset, 'metainfo', None) or {}).get(MULTI_LABEL):
        return
    for name, module in model.named_modules():
        *parents, last = name.split('.')
        if last != _HEADS[0] or {'backbone', *_HEADS} & {*parents}:  # or a layer of that name
            continue
        kinds = [kind.__name__ for kind in type(module).__mro__]
        loss = getattr(module, 'loss_module', None)
        if getattr(loss, 'use_sigmoid', True) is False:
            raise ValueError(
                f'{name}: expected a loss without a softmax over the classes, because images of '
                f'{type(dataset).__name__} can have several, got {type(loss).__name__} with '
                'use_sigmoid=False. Set loss=dict(type=CrossEntropyLoss, use_sigmoid=True)'
            )
        if 'MultiLabelClsHead' not in kinds:
            raise ValueError(
                f'{name}: expected a multi-label head, because images of {type(dataset).__name__} '
                f'can have several classes, got {kinds[0]}. Use MultiLabelLinearClsHead'
            )


def _outputs(module: Any) -> Any:
    """Return the number of classes of a head; None if it is not known."""
    if hasattr(module, 'csra_heads'):  # CSRAClsHead does not store it
        return module.csra_heads[0].head.out_channels
    return getattr(module, 'num_classes', None)


def _are_names(classes: Any) -> TypeGuard[Sequence[str]]:
    return isinstance(classes, Sequence) and not isinstance(classes, str) and len(classes) > 0


def _classes(dataset: Any) -> Any:
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')
