"""Files of the last attempt in the folder of a run: its specification, its log and its result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmkdml.experiments.run_spec import RunSpec, run_key
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result
from mmkdml.files import write_atomically

LOG = 'run.log'
SPEC = 'run.json'


def attempt_of(spec: RunSpec, work_dir: Path, settings: str | None, worker: str) -> dict[str, Any]:
    """Return the specification of an attempt.

    Args:
        spec: The run.
        work_dir: Folder of the suite.
        settings: Settings text with which the suite was started.
        worker: Name of the worker.
    """
    teachers = [
        name and str(work_dir / run_key(name, spec.seed))
        for name in spec.fold_teachers or (spec.teacher,)
    ]
    return asdict(spec) | dict(
        work_dir=str(work_dir / spec.key),
        teacher_dir=teachers if spec.fold_teachers else teachers[0],
        registered=settings,
        worker=worker,
    )


def write_attempt(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the specification of an attempt."""
    write_atomically(folder / SPEC, json.dumps(content, indent=1).encode())


def read_attempt(folder: Path) -> dict[str, Any]:
    """Read the specification of the last attempt; empty if there is none."""
    try:
        content = json.loads((folder / SPEC).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def has_result_of(worker: str | None, content: Mapping[str, Any], folder: Path) -> bool:
    """Return whether a folder has the result of exactly the attempt of an earlier worker.

    Args:
        worker: The earlier worker.
        content: Specification of the new attempt.
        folder: Folder of the run.
    """
    expected = json.loads(json.dumps({**content, 'worker': worker}))
    if worker is None or read_attempt(folder) != expected:
        return False
    try:
        deserialize_result((folder / RESULT).read_bytes())
    except (OSError, ValueError):
        return False
    return True
