"""Imports of optional packages, which extras of ``setup.py`` install."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

# mmdet is installed without its dependencies, because imaug needs an older NumPy and OpenCV; the
# extra `detection` has the others.
MMDET = 'onedl-mmdetection==3.5.1'


def require(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import a module of an extra.

    Args:
        module: Dotted name of the module.
        extra: Extra in ``setup.py`` that installs it, such as ``'medical'``.
        purpose: Feature that needs it, such as ``'reading NIfTI'``, for the error message.

    Raises:
        ValueError: If the module, or a module that it imports, is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(error.name, extra, purpose) from error


def check_extra(*modules: str, extra: str, purpose: str) -> None:
    """Check that the modules of an extra are installed, without importing them.

    Args:
        *modules: Names of top-level modules.
        extra: See :func:`require`.
        purpose: See :func:`require`.

    Raises:
        ValueError: If one is not installed.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise _missing(module, extra, purpose)


def install_command(extra: str) -> str:
    """Return the command that installs an extra of mmkdml."""
    command = f"pip install 'mmkdml[{extra}]'"
    if extra == 'detection':
        command += f" && pip install --no-deps '{MMDET}'"
    return command


def _missing(module: str | None, extra: str, purpose: str) -> ValueError:
    return ValueError(
        f'Missing package for {purpose}: {module} is not installed. Run: {install_command(extra)}'
    )
