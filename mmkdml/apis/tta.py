"""Test-time augmentation of a test, with the metrics and data of the plain test."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcv.transforms import LoadAnnotations, Pad, TestTimeAug
from mmengine.config import Config
from mmengine.runner import Runner

from mmkdml.apis.run.settings import changed_settings, deciding_settings
from mmkdml.datasets import LoadClassMask
from mmkdml.engine import ConfusionHook, PanelHook, ReliabilityHook
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.inspection.config import use_default_scope
from mmkdml.models import MemberTTA
from mmkdml.names import TTA
from mmkdml.registry import TRANSFORMS

#: Metainfo with which mmseg flips predictions back.
FLIP_KEYS = ('flip', 'flip_direction')
#: Transforms that load the ground truth; mmseg's is a subclass of mmcv's.
ANNOTATIONS = (LoadAnnotations, LoadClassMask)
_FLIP = 'mmcv.transforms.RandomFlip'
_FLIPS = (
    dict(type=_FLIP, prob=0.0),
    dict(type=_FLIP, prob=1.0, direction='horizontal'),
    dict(type=_FLIP, prob=1.0, direction='vertical'),
)
_DEFAULT = 'image, horizontal flip, vertical flip'


def use_tta(config: Config) -> None:
    """Make the test data of a config augmented views of each image.

    The views are those of ``tta_pipeline``, which ends with mmcv's ``TestTimeAug``. If it loads no
    ground truth, that of the test pipeline is loaded after the views were made. Without a
    ``tta_pipeline`` they are the image, its horizontal and its vertical flip. The plain settings
    are kept in ``config.tta``.

    Args:
        config: Config of the test; modified.

    Raises:
        ValueError: If there is no test pipeline, or the pipeline has no views.
    """
    use_default_scope(config)
    loader = config.get('test_dataloader') or {}
    dataset = loader.get('dataset')
    if not isinstance(dataset, Mapping) or not dataset.get('pipeline'):
        found = sorted(dataset) if isinstance(dataset, Mapping) else dataset
        raise ValueError(
            'Invalid test_dataloader.dataset for test-time augmentation: expected a pipeline, got '
            f'{found!r}. Set the pipeline in it, not in a data set inside'
        )
    own = config.get('tta_pipeline')
    plain = copy.deepcopy(list(dataset['pipeline']))
    pipeline = _completed(copy.deepcopy(list(own)), plain) if own else _flipped(plain)
    views = _DEFAULT if not own else f'{_number_of_views(pipeline)} views of tta_pipeline'
    config[TTA] = dict(views=views, test_dataloader=copy.deepcopy(loader))
    loader['dataset']['pipeline'] = pipeline
    loader['collate_fn'] = dict(type='pseudo_collate')  # views differ in size


def augment_model(runner: Runner) -> None:
    """Wrap the model of a test of :func:`use_tta`, whose weights were loaded.

    Figures are written to the folder ``tta`` in that of the run, apart from those of plain tests;
    those of an absolute ``out_dir`` to its subfolder ``tta``.
    """
    network = unwrap_model(runner.model)
    device = next(network.parameters()).device
    runner.model = MemberTTA.of(network, runner.cfg.get('tta_model')).to(device)
    for hook in runner.hooks:
        if isinstance(hook, ConfusionHook | PanelHook | ReliabilityHook):
            folder = Path(hook.out_dir)
            parts = (folder, TTA) if folder.is_absolute() else (TTA, folder)
            hook.out_dir = str(Path(*parts))


def plain_config(config: Config) -> Config:
    """Return the config of a test without its test-time augmentation."""
    if TTA not in config:
        return config
    plain = copy.deepcopy(config)
    plain.test_dataloader = plain.pop(TTA)['test_dataloader']
    return plain


def tta_changes(own: Config | None, config: Config) -> dict[str, tuple[Any, Any]]:
    """Describe the test-time augmentation of a test as a change of settings.

    Args:
        own: Config of the run, if known.
        config: Config of the test.

    Returns:
        Old and new value by dotted key; empty without augmentation.
    """
    if TTA not in config:
        return {}
    parts = ('tta_model', 'tta_pipeline')
    both = [] if own is None else [deciding_settings(one, parts) for one in (own, config)]
    others = changed_settings(*both) if both else {}
    return {TTA: (False, config[TTA]['views']), **others}


def _flipped(steps: list[Any]) -> list[Any]:
    *others, pack = steps
    first = number_before_flips([_kind(step) for step in others])
    flips, after = copy.deepcopy(list(_FLIPS)), [[step] for step in others[first:]]
    stages = [flips, *after, [_packed(pack)]]
    return [*others[:first], dict(type='mmcv.transforms.TestTimeAug', transforms=stages)]


def number_before_flips(kinds: Sequence[Any]) -> int:
    """Return the number of transforms of a test pipeline, without packing, before it is flipped.

    Detectors are flipped before the image is padded, because boxes are flipped back without the
    padding, and before boxes are loaded, because mmcv does not flip mmdet's boxes.

    Args:
        kinds: Classes of the transforms.
    """
    late = (
        isinstance(kind, type)
        and kind.__module__.startswith('mmdet.')
        and issubclass(kind, (Pad, LoadAnnotations))
        for kind in kinds
    )
    return next((place for place, is_late in enumerate(late) if is_late), len(kinds))


def _packed(step: Any) -> dict[str, Any]:
    """Add the metainfo of flips to a packing transform."""
    keys = getattr(TRANSFORMS.build(copy.deepcopy(step)), 'meta_keys', None)
    if keys is None:
        raise ValueError(
            'Invalid pipeline for test-time augmentation: expected PackInputs, '
            f'PackSegInputs or PackDetInputs last, got {step["type"]}'
        )
    return dict(step, meta_keys=tuple(dict.fromkeys((*keys, *FLIP_KEYS))))


def _kind(step: Any) -> Any:
    kind = step.get('type')
    if isinstance(kind, str):
        # As for building: a name without scope is one of the default scope.
        with TRANSFORMS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    return kind


def _is(step: Any, kinds: type | tuple[type, ...]) -> bool:
    kind = _kind(step)
    return isinstance(kind, type) and issubclass(kind, kinds)


def _completed(steps: list[Any], plain: list[Any]) -> list[Any]:
    """Check a ``tta_pipeline``; add the ground truth and the metainfo of flips."""
    *before, views = steps
    stages = [list(stage) for stage in views.get('transforms') or []]
    if not _is(views, TestTimeAug) or not stages or not all(stages):
        raise ValueError(
            'Invalid tta_pipeline: expected TestTimeAug last, with transforms that create the '
            f'views, got {[step.get("type") for step in steps]}'
        )
    *others, packs = stages
    known = [*before, *(step for stage in others for step in stage)]
    if not any(_is(step, ANNOTATIONS) for step in known):
        others += [[step] for step in plain if _is(step, ANNOTATIONS)]
    views['transforms'] = [*others, [_packed(step) for step in packs]]
    return steps


def _number_of_views(pipeline: Any) -> int:
    return math.prod(map(len, pipeline[-1]['transforms']))
