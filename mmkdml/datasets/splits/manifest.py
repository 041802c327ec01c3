"""Manifest of split files: a hash per file, which detects files that do not belong together."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmkdml.commands import tool_command
from mmkdml.files import (
    atomic_writer,
    file_sha256,
    json_text,
    remove_partial_files,
    write_atomically,
)
from mmkdml.names import FOLDS, SPLITS, fold_folder

SPLIT_FILES = tuple(f'{name}.csv' for name in SPLITS)
INFO_FILE = 'splits.json'
#: COCO JSON file with the boxes of all splits.
BOXES_FILE = 'annotations.json'
HASHES, UNFINISHED = 'sha256', 'unfinished'
_FOLD = re.compile(r'fold_\d+')


def manifest_folder(folder: str | Path) -> Path:
    """Return the folder with the manifest of split files: that above a fold's, or their own."""
    folder = Path(folder)
    above = folder.parent if folder.name else folder / '..'
    # Resolved, because the path may be `.`.
    if not _FOLD.fullmatch(folder.resolve().name) or (folder / INFO_FILE).exists():
        return folder
    return above if (above / INFO_FILE).exists() else folder


def _accept(folder: str | Path) -> str:
    command = f'{tool_command("dataset_converters/accept_splits")} {folder}'
    return (
        f'If the change is intended, record it with "{command}"; otherwise run the converter again '
        'with --force'
    )


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return the content of ``splits.json``; empty if the file is missing or not a JSON object.

    Args:
        folder: Folder of split files; that of a fold shares the manifest of the folder above.

    Raises:
        ValueError: If the file is damaged.
    """
    path = manifest_folder(folder) / INFO_FILE
    try:
        content = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f'{path} is damaged: expected JSON, got {error}. ' + _accept(path.parent)
        ) from error
    return content if isinstance(content, dict) else {}


def check_manifest(path: str | Path) -> None:
    """Check that a split file and those written with it are unchanged.

    Folders without a manifest and files with other names are not checked.

    Raises:
        ValueError: If the manifest does not list the file, a listed file is missing or has changed,
            or writing was interrupted.
    """
    path = Path(path)
    if path.name not in SPLIT_FILES:
        return
    folder = manifest_folder(path.parent)
    in_fold = folder != path.parent
    fold = f'{path.parent.resolve().name}/' if in_fold else ''
    manifest = read_manifest(folder)
    if manifest.get(UNFINISHED):
        raise ValueError(
            f'The split files in {folder} are incomplete: a converter was stopped while it '
            'replaced them. Run the converter again with --force'
        )
    hashes = manifest.get(HASHES)
    if not isinstance(hashes, Mapping):
        return
    if FOLDS in manifest and not in_fold:
        raise ValueError(
            f'Invalid split file {path}: expected one of the {manifest[FOLDS]} folds in {folder}, '
            f'such as {folder / fold_folder(0) / path.name}. Choose a fold with --fold'
        )
    # Files of other folds do not affect this one.
    together = [name for name in hashes if name.startswith(fold) or '/' not in name]
    for name in (*together, fold + path.name):
        part = folder / name
        found = file_sha256(part) if part.is_file() else 'no file'
        expected = hashes.get(name, 'no such file')
        if found != expected:
            raise ValueError(
                f'{part} does not belong to the other split files: expected the SHA-256 of '
                f'{folder / INFO_FILE}, {expected[:12]}, got {found[:12]}. ' + _accept(folder)
            )


def write_split_files(
    folder: Path, files: Mapping[str, bytes], info: Mapping[str, Any], force: bool
) -> list[Path]:
    """Write split files and their manifest as one unit.

    If the process is killed, readers get the previous files, the new files or an error: while files
    are replaced, the manifest contains only ``unfinished``.

    Args:
        folder: Folder to write to; created if missing.
        files: Content of each split file, and of further files that belong to them, by relative
            path. Other split files in the folder are deleted.
        info: Content of the manifest in addition to the hashes.
        force: Replace files that differ.

    Returns:
        Paths of the split files and of the manifest.

    Raises:
        FileExistsError: If the folder contains other split files and ``force`` is not set.
        OSError: If writing a file fails.
    """
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    manifest = (json_text({**info, HASHES: hashes}, indent=2) + '\n').encode()
    in_folds = [
        path.relative_to(folder).as_posix()
        for path in folder.glob('fold_*/*.csv')
        if path.name in SPLIT_FILES
    ]
    own = {**dict.fromkeys(SPLIT_FILES), **dict.fromkeys(in_folds), **files}
    present = {folder / name: content for name, content in own.items() if (folder / name).exists()}
    differing = [path for path, content in present.items() if content != path.read_bytes()]
    try:
        before = read_manifest(folder)
    except ValueError:
        before = dict(damaged=True)
    # Manifests of earlier versions have no hashes; adding them changes no split.
    known = {key: value for key, value in before.items() if key != HASHES}
    known_as_json = json.loads(json_text(info))
    if (folder / INFO_FILE).exists() and not before.get(UNFINISHED) and known != known_as_json:
        differing.append(folder / INFO_FILE)
    if differing and not force:
        raise FileExistsError(
            f'{folder} contains other splits '
            f'({", ".join(p.relative_to(folder).as_posix() for p in differing)} would '
            'change). Choose another folder, or replace them with --force'
        )
    folder.mkdir(parents=True, exist_ok=True)
    written = [folder / name for name in (*files, INFO_FILE)]
    if all(p.is_file() for p in written) and not differing and written[-1].read_bytes() == manifest:
        return written
    for parent in {path.parent for path in written}:
        parent.mkdir(exist_ok=True)
        remove_partial_files(parent, '*.csv')
    for name in (BOXES_FILE, INFO_FILE):
        remove_partial_files(folder, name)
    with ExitStack() as stack:
        for name, content in files.items():
            file = stack.enter_context(atomic_writer(folder / name))
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # detects a full disk before a file is replaced
        write_atomically(written[-1], json.dumps({UNFINISHED: True}).encode())
    for path in set(present) - set(written):
        path.unlink()  # a split that no longer exists
        if path.parent != folder and not any(path.parent.iterdir()):
            path.parent.rmdir()
    write_atomically(written[-1], manifest)
    return written
