"""Hook that watches the data loader workers of every loop."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.engine.workers import watch_workers
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class WatchLoadersHook(Hook):
    """Make data loaders raise an error with the cause when their workers hang or die.

    See :func:`mmkdml.engine.watch_workers`. ``mmkdml.apis.make_runner`` adds it to every run.
    """

    priority = 'VERY_HIGH'  # Before a loader starts its workers.

    def before_train(self, runner: Runner) -> None:
        """Watch the training loader."""
        watch_workers(runner.train_dataloader)

    def before_val(self, runner: Runner) -> None:
        """Watch the validation loader."""
        watch_workers(runner.val_dataloader)

    def before_test(self, runner: Runner) -> None:
        """Watch the test loader."""
        watch_workers(runner.test_dataloader)
