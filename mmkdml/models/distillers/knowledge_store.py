"""Tensors by key, in one file that several runs may fill and read."""

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
# Bytes. Larger ones are read faster, and leave more of a map's last one empty.
_PAGE = 16384
_LOCK_SECONDS = 60.0
_SCHEMA = 'CREATE TABLE knowledge (key BLOB PRIMARY KEY, checksum INTEGER, tensor BLOB)'


class KnowledgeStore:
    """Tensors by key in an SQLite file that does not grow over a limit.

    What is added together is there together or not at all, whenever the process is killed. Several
    processes of one machine may add and read at the same time. Nothing is replaced or removed, so
    what was found once stays as it is. A tensor is kept as safetensors with a checksum: a file from
    a stranger runs no code.

    Args:
        path: The file, on a disk of this machine. It is made if it is not there.
        limit: GiB that it may take, above 0.

    Attributes:
        full: Whether something could not be added, and nothing more will be.

    Raises:
        ValueError: If the file is of another kind or damaged, here or later.
    """

    def __init__(self, path: str | Path, limit: float) -> None:
        self.path = Path(path)
        self.full = False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._explained():
            self._file = sqlite3.connect(self.path, timeout=_LOCK_SECONDS)
            self._file.execute('PRAGMA trusted_schema = OFF')
            if not self._schema():
                self._file.execute(f'PRAGMA page_size = {_PAGE}')
                self._file.execute(_SCHEMA.replace('TABLE', 'TABLE IF NOT EXISTS'))
            if self._schema() != [_SCHEMA]:
                raise sqlite3.DatabaseError('it holds something else')
            self._page = self._pragma('page_size')
            self._file.execute(f'PRAGMA max_page_count = {max(1, int(limit * GIB / self._page))}')

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return self._pragma('page_count') * self._page

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Tensor]:
        """What there is of these, each a tensor of its own on the CPU.

        Raises:
            ValueError: If the file is damaged.
        """
        marks = ', '.join('?' * len(keys))
        query = f'SELECT key, checksum, tensor FROM knowledge WHERE key IN ({marks})'
        with self._explained():
            return {key: _unpacked(*row) for key, *row in self._file.execute(query, keys)}

    def add(self, tensors: Mapping[bytes, Tensor]) -> None:
        """Adds all of these that are not there, or none; then the store is full, which is logged.

        Args:
            tensors: On the CPU, contiguous.

        Raises:
            ValueError: If the file is damaged.
        """
        if self.full:
            return
        packed = ((key, save({'': tensor})) for key, tensor in tensors.items())
        rows = [(key, zlib.crc32(data), data) for key, data in packed]
        with self._explained():
            try:
                with self._file:
                    self._file.executemany('INSERT OR IGNORE INTO knowledge VALUES (?, ?, ?)', rows)
            except sqlite3.OperationalError as error:  # of the limit, of the disk, of its rights
                self.full = True
                print_log(
                    f'{self.path} has {self.size / GIB:.3g} GiB and takes no more ({error}); what '
                    'is not in it is computed each time',
                    logger='current',
                    level=logging.WARNING,
                )

    def _schema(self) -> list[str]:
        rows = self._file.execute('SELECT sql FROM sqlite_master WHERE sql IS NOT NULL')
        return [sql for (sql,) in rows]

    def _pragma(self, name: str) -> int:
        return self._file.execute(f'PRAGMA {name}').fetchone()[0]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, SafetensorError, KeyError) as error:
            raise ValueError(
                f'{self.path} cannot be used as a cache of knowledge: {error}. Name another file; '
                'or, if it was one, delete it, and what was in it is computed anew'
            ) from error


def _unpacked(checksum: int, data: bytes) -> Tensor:
    if not isinstance(data, bytes) or zlib.crc32(data) != checksum:
        raise sqlite3.DatabaseError('the checksum of a tensor is wrong')
    return load(data)['']
