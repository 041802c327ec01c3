"""Hook that keeps a training running until a test has disturbed it."""

import time
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class PaceHook(Hook):
    """Slow down each iteration while a file exists."""

    def __init__(self, path):
        self.path = Path(path)

    def before_train_iter(self, *_, **__):
        """Wait for some seconds."""
        if self.path.exists():
            time.sleep(3)
