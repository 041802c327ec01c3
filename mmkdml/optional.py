"""Imports of packages that only the extras install."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        module: Dotted name of the module.
        extra: Extra in ``setup.py`` that installs it, such as ``'medical'``.
        purpose: The feature that needs it, as in "reading NIfTI", for the error message.

    Raises:
        ValueError: If the module, or a module that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f'Missing package for {purpose}: {error.name} is not installed. '
            f"Run: pip install 'mmkdml[{extra}]'"
        ) from error
