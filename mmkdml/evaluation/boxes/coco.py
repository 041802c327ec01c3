"""Make mmdet's ``CocoMetric`` report values if nothing is found, and print nothing."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from mmengine.logging import print_log


@contextlib.contextmanager
def prints_to_log() -> Iterator[None]:
    """Log what is printed, as by pycocotools, instead of showing it on the console."""
    text = io.StringIO()
    try:
        with contextlib.redirect_stdout(text):
            yield
    finally:
        if printed := text.getvalue().strip():
            print_log(printed, logger='current')


def with_a_box(results: list) -> list:
    """Add a box without area and with score 0 if there are no predictions at all.

    ``CocoMetric`` reports no values without a prediction, so that the selection of checkpoints
    would skip the evaluation. The box matches nothing: all values become 0.

    Args:
        results: Truth and predictions of each image, as stored by ``CocoMetric``.

    Returns:
        The results, changed in the first image.
    """
    if not results or any(len(found['scores']) for _, found in results):
        return results
    (truth, found), *others = results
    box: dict[str, Any] = dict(
        bboxes=np.zeros((1, 4)), scores=np.zeros(1), labels=np.zeros(1, dtype=int)
    )
    if 'masks' in found:
        from pycocotools import mask

        empty = np.zeros((truth['height'], truth['width']), dtype=np.uint8, order='F')
        box['masks'] = [mask.encode(empty)]
    return [(truth, {**found, **box}), *others]


def report_zero_if_nothing_found(metric: Any) -> None:
    """Apply :func:`with_a_box` to a ``CocoMetric``; other metrics are not changed.

    Args:
        metric: Any metric. mmdet is not imported: a ``CocoMetric`` exists only if it has been.
    """
    module = sys.modules.get('mmdet.evaluation.metrics.coco_metric')
    if module and isinstance(metric, module.CocoMetric) and not metric.format_only:
        compute = metric.compute_metrics
        metric.compute_metrics = lambda results: compute(with_a_box(results))
