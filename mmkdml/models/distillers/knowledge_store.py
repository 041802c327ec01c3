"""Key-value store of tensors in an SQLite file that several runs share."""

from __future__ import annotations

import logging
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mmengine.logging import print_log
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

GIB = 2**30
# Page size in bytes. Larger pages are read faster, but waste more space per tensor.
_PAGE = 16384
_LOCK_SECONDS = 60.0
_SCHEMA = 'CREATE TABLE knowledge (key BLOB PRIMARY KEY, checksum INTEGER, tensor BLOB)'


class KnowledgeStore:
    """Store of tensors by key in an SQLite file of limited size.

    Several processes of one machine may read and add at the same time. Entries are never replaced
    or removed. Tensors are serialized as safetensors with a checksum, so an untrusted file runs no
    code.

    Args:
        path: Path of the file on a local disk; it is created if it does not exist.
        limit: Size limit in GiB, above 0.

    Attributes:
        full: True after a write failed; nothing is added from then on.

    Raises:
        ValueError: If the file is of another kind or damaged, also in the methods.
    """

    def __init__(self, path: str | Path, limit: float) -> None:
        self.path = Path(path)
        self.full = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._name_file_in_errors():
            self._file = sqlite3.connect(self.path, timeout=_LOCK_SECONDS)
            self._file.execute('PRAGMA trusted_schema = OFF')
            if not self._schema():
                self._file.execute(f'PRAGMA page_size = {_PAGE}')
                self._file.execute(_SCHEMA.replace('TABLE', 'TABLE IF NOT EXISTS'))
            if self._schema() != [_SCHEMA]:
                raise sqlite3.DatabaseError('it has other tables')
            self._page = self._pragma('page_size')
            self._file.execute(f'PRAGMA max_page_count = {max(1, int(limit * GIB / self._page))}')

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._pragma('page_count') * self._page

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """Return the stored tensors of these keys, on the CPU."""
        marks = ', '.join('?' * len(keys))
        query = f'SELECT key, checksum, tensor FROM knowledge WHERE key IN ({marks})'
        with self._name_file_in_errors():
            return {key: _deserialize(*row) for key, *row in self._file.execute(query, keys)}

    def add(self, tensors: Mapping[bytes, Tensor]) -> None:
        """Add contiguous CPU tensors, all or none; keys that exist keep their tensors.

        If writing fails, log a warning and set ``full``.
        """
        if self.full:
            return
        serialized = ((key, save({'': tensor})) for key, tensor in tensors.items())
        rows = [(key, zlib.crc32(data), data) for key, data in serialized]
        with self._name_file_in_errors():
            try:
                with self._file:
                    self._file.executemany('INSERT OR IGNORE INTO knowledge VALUES (?, ?, ?)', rows)
            except sqlite3.OperationalError as error:  # size limit, full disk, read-only file
                self.full = True
                print_log(
                    f'{self.path} is full with {self.size / GIB:.3g} GiB ({error}); outputs that '
                    'are missing are computed each time',
                    logger='current',
                    level=logging.WARNING,
                )

    def _schema(self) -> list[str]:
        rows = self._file.execute('SELECT sql FROM sqlite_master WHERE sql IS NOT NULL')
        return [sql for (sql,) in rows]

    def _pragma(self, name: str) -> int:
        return self._file.execute(f'PRAGMA {name}').fetchone()[0]

    @contextmanager
    def _name_file_in_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, SafetensorError, KeyError) as error:
            raise ValueError(
                f'{self.path} is not a valid teacher cache: {error}. Use another path, or delete a '
                'damaged cache to compute it again'
            ) from error


def _deserialize(checksum: int, data: bytes) -> Tensor:
    if not isinstance(data, bytes) or zlib.crc32(data) != checksum:
        raise sqlite3.DatabaseError('the checksum of a tensor is wrong')
    return load(data)['']
