"""Records of the finished cases in a folder, to continue an interrupted prediction."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmkdml.apis.output_folder import OutputFolder
from mmkdml.apis.prediction.inputs import Source
from mmkdml.apis.run.settings import NOT_SET, other_settings_error
from mmkdml.files import file_sha256, json_text

SETTINGS = 'settings.json'
_LONGEST_NAME = 255  # bytes, in all common file systems

# Parts of a config that predictions depend on.
_DECISIVE = (
    *('default_scope', 'model', 'data_preprocessor'),
    *('test_dataloader', 'test_pipeline', 'tta_model', 'tta_pipeline'),
)


class Records:
    """Finished cases in a folder: ``settings.json``, and ``cases/<case>.json`` for each.

    Args:
        outputs: The folder; it need not exist yet.
        settings: JSON values of everything that predictions depend on, except the files.
    """

    def __init__(self, outputs: OutputFolder, settings: dict[str, Any]) -> None:
        self.outputs = outputs
        self.out = outputs.path
        self.settings = settings
        self._seen: dict[str, Any] = {}  # by case: state of its files before they are read

    def claim(self, force: bool = False) -> None:
        """Create the folder and write the settings; ``force`` replaces different ones.

        Raises:
            FileExistsError: If a settings file exists that no tool wrote.
            ValueError: If the folder holds predictions with other settings.
        """
        path = self.out / SETTINGS
        self.outputs.check([path])
        if path.is_file() and (self.out / 'cases').is_dir() and not force:
            before = _read(path) or {}
            changes = {
                key: (before.get(key, NOT_SET), value)
                for key, value in self.settings.items()
                if before.get(key, NOT_SET) != value
            }
            if changes:
                raise other_settings_error(
                    f'{self.out} has predictions',
                    changes,
                    'Choose another folder, or replace them with --force',
                )
        self.outputs.write_text(path, json.dumps(self.settings, indent=1))

    def find(self, source: Source, force: bool = False) -> list[dict[str, Any]] | None:
        """Return the table rows of a finished case.

        Returns:
            The rows; None if the case is not finished, or its files or outputs have changed, or
            with ``force``.

        Raises:
            OSError: If the name of the case is too long for a file.
        """
        path = self.path_of(source)
        if len(os.fsencode(path.name)) > _LONGEST_NAME:  # is_file() would return False
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), str(path))
        self._seen[source.name] = _state(source)
        record = _read(path) if source.files else None
        if force or record is None or record.get('stamp') != self._stamp(source):
            return None
        intact = all(
            (self.out / path).is_file() and file_sha256(self.out / path) == digest
            for path, digest in record['written'].items()
        )
        return record['rows'] if intact else None

    def keep(self, source: Source, rows: list[dict[str, Any]], written: Sequence[Path]) -> bool:
        """Record a case as finished, and remove its earlier outputs.

        Returns:
            False if its input files have changed since :meth:`find`; then nothing is recorded.
        """
        record: dict[str, Any] = dict(
            stamp=self._stamp(source),
            written={path.relative_to(self.out).as_posix(): file_sha256(path) for path in written},
            rows=rows,
        )
        state = _state(source)
        if state != self._seen.get(source.name, state):
            return False
        self._remove_written(source, set(record['written']))
        self.outputs.write_text(self.path_of(source), json_text(record, indent=1))
        return True

    def forget(self, source: Source) -> None:
        """Remove the outdated outputs of a case."""
        self._remove_written(source, set())
        self.outputs.remove(self.path_of(source))

    def path_of(self, source: Source) -> Path:
        """Return the path of a case's record."""
        return self.out / 'cases' / f'{source.name}.json'

    def _remove_written(self, source: Source, kept: set[str]) -> None:
        before: dict[str, Any] = _read(self.path_of(source)) or {}
        for path in before.get('written') or ():
            if path not in kept:
                self.outputs.remove(path)

    def _stamp(self, source: Source) -> dict[str, Any]:
        """Return everything that a finished case depends on."""
        return dict(
            settings=self.settings,
            files=[str(path) for path in source.files],
            sha256=[file_sha256(path) if path.is_file() else None for path in source.files],
        )


def _state(source: Source) -> list[Any]:
    """Return numbers that change with the files and are cheaper than hashes."""
    states = [path.stat() for path in source.files if path.exists()]
    return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in states]


def decisive_sha256(config: Config) -> str:
    """Return the SHA-256 of the parts of a config that predictions depend on."""
    settings = config.to_dict()
    content = json.dumps({key: settings.get(key) for key in _DECISIVE}, sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if it is missing or something else."""
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
