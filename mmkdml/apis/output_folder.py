"""Output files of the tools, which never replace a user's files."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mmkdml.files import atomic_path

#: File in an output folder that lists the files our tools wrote, one JSON string per line.
MANIFEST = '.mmkdml_outputs'
_SHOWN = 5


class OutputFolder:
    """Output folder in which only files that a tool wrote are replaced.

    A file is listed in :data:`MANIFEST` before it is written, so that it is recognized even after
    an interruption. Files are written atomically.

    Args:
        path: The folder; created with the first file.
        inputs: Files that must not be replaced, even if a tool wrote them.
    """

    def __init__(self, path: str | Path, inputs: Iterable[str | Path] = ()) -> None:
        self.path = Path(path).absolute()
        self._inputs = {identity for one in inputs if (identity := _identity(Path(one)))}
        self._own = self._listed()

    def check(self, paths: Iterable[str | Path]) -> None:
        """Refuse to replace files that no tool wrote, before any work is done.

        Args:
            paths: Relative to the folder, or absolute ones below it.

        Raises:
            FileExistsError: If a file exists that no tool wrote, or that is an input.
        """
        found = [path for path in map(self.path.joinpath, paths) if self._is_protected(path)]
        if found:
            more = f' and {len(found) - _SHOWN} more' if len(found) > _SHOWN else ''
            raise FileExistsError(
                f'Invalid outputs {", ".join(map(str, found[:_SHOWN]))}{more}: expected new files '
                f'or those of an earlier call, got inputs or files that are not in {MANIFEST}. '
                'Choose another folder (--out), or move the files away'
            )

    @contextmanager
    def writing(self, path: str | Path) -> Iterator[Path]:
        """Yield the path of a temporary file that becomes the output when the block ends.

        Args:
            path: Relative to the folder, or an absolute one below it; missing folders are created.

        Raises:
            FileExistsError: See :meth:`check`.
            OSError: If writing fails; the previous file remains intact.
        """
        path = self.path / path
        self.check([path])
        path.parent.mkdir(parents=True, exist_ok=True)
        line = self._line(path)
        if line not in self._own:
            with (self.path / MANIFEST).open('a', encoding='utf-8') as manifest:
                manifest.write(f'{line}\n')
            self._own.add(line)
        suffix = '.nii.gz' if path.name.endswith('.nii.gz') else path.suffix
        with atomic_path(path, suffix, sync=False) as part:
            yield part

    def write_text(self, path: str | Path, content: str) -> None:
        """Write a text file, which ends with a line break; see :meth:`writing`."""
        with self.writing(path) as part:
            part.write_text(content if content.endswith('\n') else f'{content}\n', encoding='utf-8')

    def remove(self, path: str | Path) -> None:
        """Remove a file that a tool wrote, if it exists."""
        path = self.path / path
        if self._line(path) in self._own and _identity(path) not in self._inputs:
            path.unlink(missing_ok=True)

    def _is_protected(self, path: Path) -> bool:
        identity = _identity(path)
        if identity is None:
            return False
        if self._line(path) not in self._own:
            self._own = self._listed()  # another process may have written it since
        return identity in self._inputs or self._line(path) not in self._own

    def _listed(self) -> set[str]:
        manifest = self.path / MANIFEST
        if not manifest.is_file():
            return set()
        return set(manifest.read_text(encoding='utf-8', errors='replace').splitlines())

    def _line(self, path: Path) -> str:
        return json.dumps(path.relative_to(self.path).as_posix())


def refuse_existing(
    path: str | Path, force: bool = False, inputs: Iterable[str | Path] = ()
) -> None:
    """Raise an error if an existing file would be overwritten.

    Args:
        path: The file to write.
        force: Allow overwriting files that are not inputs.
        inputs: Files that are never overwritten.

    Raises:
        FileExistsError: If the file is an input; or if it exists, without ``force``.
    """
    identity = _identity(Path(path))
    if identity is None:
        return
    if identity in {_identity(Path(one)) for one in inputs}:
        raise FileExistsError(f'{path} is an input and would be overwritten. Choose another path')
    if not force:
        raise FileExistsError(f'{path} already exists. Use --force to replace it')


def _identity(path: Path) -> tuple[int, int] | None:
    """Return device and inode of a file, equal for all its links; None if it is missing."""
    for look in (path.stat, path.lstat):  # the second one for a broken link
        try:
            found = look()
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                raise
        else:
            return found.st_dev, found.st_ino
    return None
