"""Hook that draws reliability diagrams of a test."""

from __future__ import annotations

from pathlib import Path

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.evaluation.calibration import Calibration
from mmkdml.files import own_file
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class ReliabilityHook(Hook):
    """Save the results of :class:`~mmkdml.evaluation.Calibration` as a table and as diagrams.

    The files are ``<out_dir>/reliability.csv`` and ``<out_dir>/reliability.png``. They are not
    written if the test has no such metric or no samples.

    Args:
        out_dir: Output folder; relative paths are inside the runner's ``work_dir``.

    Raises:
        ValueError: If ``out_dir`` is not a path.
    """

    priority = 'LOW'

    def __init__(self, out_dir: str = 'calibration') -> None:
        if not isinstance(out_dir, str | Path):
            raise ValueError(f'Invalid out_dir: expected the path of a folder, got {out_dir!r}')
        self.out_dir = out_dir

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the files."""
        from mmkdml.evaluation.reliability import draw_reliability  # imports matplotlib

        for metric in runner.test_evaluator.metrics:
            if isinstance(metric, Calibration) and len(metric.table):
                table, figure = (
                    own_file(runner.work_dir, self.out_dir, f'reliability.{kind}')
                    for kind in ('csv', 'png')
                )
                metric.table.to_csv(table, index=False)
                draw_reliability(metric.table, figure)
                runner.logger.info(f'Saved reliability diagrams in {figure.parent}')
