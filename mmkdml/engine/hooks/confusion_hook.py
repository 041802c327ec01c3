"""Hook that saves the confusion matrices of a test."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.evaluation.confusion import ConfusionMatrix
from mmkdml.files import own_file
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class ConfusionHook(Hook):
    """Save the results of :class:`~mmkdml.evaluation.ConfusionMatrix` as a table and a figure.

    The files are ``<out_dir>/confusion.csv`` and ``<out_dir>/confusion.png``. They are not written
    if the test has no such metric or no samples. If images can have several classes, the figure has
    a matrix per class, of the ensemble or the network; the table has those of all members.

    Args:
        out_dir: Output folder; relative paths are inside the runner's ``work_dir``.

    Raises:
        ValueError: If ``out_dir`` is not a path.
    """

    priority = 'LOW'

    def __init__(self, out_dir: str = 'confusion') -> None:
        if not isinstance(out_dir, str | Path):
            raise ValueError(f'Invalid out_dir: expected the path of a folder, got {out_dir!r}')
        self.out_dir = out_dir

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the files."""
        from mmkdml.figures.confusion import draw_confusion  # imports matplotlib

        for metric in runner.test_evaluator.metrics:
            if isinstance(metric, ConfusionMatrix) and metric.matrices:
                table, figure = (
                    own_file(runner.work_dir, self.out_dir, f'confusion.{kind}')
                    for kind in ('csv', 'png')
                )
                metric.table.to_csv(table, index=False)
                classes = metric.class_names(len(next(iter(metric.matrices.values()))))
                draw_confusion(metric.main_matrices, classes, figure)
                runner.logger.info(f'Saved confusion matrices in {figure.parent}')
