"""What was predicted into a folder, case by case, so that a stop costs the case at hand alone."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdml.apis.image_sources import Source

# All of a config that answers depend on.
_DECISIVE = (
    'default_scope',
    'model',
    'data_preprocessor',
    'test_dataloader',
    'test_pipeline',
    'tta_model',
    'tta_pipeline',
)


class Records:
    """The finished cases in a folder: ``settings.json``, and ``cases/<case>.json`` for each.

    Args:
        out: The folder, which may not be there yet.
        settings: All that answers depend on but the files, as JSON has it.
    """

    def __init__(self, out: Path, settings: dict[str, Any]) -> None:
        self.out = out
        self.settings = settings

    def claim(self, force: bool = False) -> None:
        """Makes the folder and writes the settings.

        Args:
            force: Replace other settings.

        Raises:
            ValueError: If there are answers of other settings.
        """
        path = self.out / 'settings.json'
        if path.is_file() and (self.out / 'cases').is_dir() and not force:
            before = _read(path) or {}
            changed = [
                f'{key}: {before.get(key)!r} there, {value!r} now'
                for key, value in self.settings.items()
                if before.get(key) != value
            ]
            if changed:
                raise ValueError(
                    f'{self.out} holds answers of other settings ({"; ".join(changed)}); choose '
                    'another folder, or replace them with --force'
                )
        write_text(path, json.dumps(self.settings, indent=1))

    def find(self, source: Source) -> list[dict[str, Any]] | None:
        """The rows of a finished case.

        None if it has none, its files changed since, or what was written is there no more.
        """
        record = _read(self._path(source)) if source.files else None
        if record is None or record.get('stamp') != self._stamp(source):
            return None
        whole = all((self.out / path).is_file() for path in record['written'])
        return record['rows'] if whole else None

    def keep(self, source: Source, rows: list[dict[str, Any]], written: Sequence[Path]) -> None:
        """Notes that a case is finished.

        Args:
            source: The case.
            rows: What the table tells of it.
            written: Files in the folder that belong to it.
        """
        record = dict(
            stamp=self._stamp(source),
            written=[path.relative_to(self.out).as_posix() for path in written],
            rows=rows,
        )
        write_text(self._path(source), json.dumps(record, indent=1))

    def _path(self, source: Source) -> Path:
        return self.out / 'cases' / f'{source.name}.json'

    def _stamp(self, source: Source) -> dict[str, Any]:
        """What must not have changed for an answer to stand."""
        facts = [path.stat() for path in source.files if path.exists()]
        return dict(
            settings=self.settings,
            files=[str(path) for path in source.files],
            bytes=sum(fact.st_size for fact in facts),
            modified=max((fact.st_mtime_ns for fact in facts), default=0),
        )


def decisive_sha256(config: Config) -> str:
    """SHA-256 of all of a config that answers depend on: its model and its test pipelines."""
    whole = config.to_dict()
    content = json.dumps({key: whole.get(key) for key in _DECISIVE}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def write_text(path: Path, content: str) -> None:
    """Writes a file as a whole or not at all; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_text(content if content.endswith('\n') else f'{content}\n', encoding='utf-8')
    os.replace(part, path)


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a JSON file; None if there is none, or it is of another kind."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
