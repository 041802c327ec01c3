"""JSON logs of mmengine without NaN and infinity, which are invalid JSON."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import LoggerHook
from mmengine.registry import VISBACKENDS
from mmengine.visualization import LocalVisBackend

from mmkdml.files import json_values
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class StrictJsonLoggerHook(LoggerHook):
    """mmengine's ``LoggerHook`` with null for undefined metrics in ``<timestamp>.json``."""

    @staticmethod
    def _process_tags(tags: dict) -> dict:
        """Return the metrics of a test to be written as JSON."""
        return json_values(LoggerHook._process_tags(tags))


@VISBACKENDS.register_module()
class StrictJsonVisBackend(LocalVisBackend):
    """mmengine's ``LocalVisBackend`` with null for undefined values in ``scalars.json``."""

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Write one value."""
        super().add_scalar(name, json_values(value), step, **kwargs)

    def add_scalars(
        self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Write several values as one line."""
        super().add_scalars(json_values(scalar_dict), step, file_path, **kwargs)
