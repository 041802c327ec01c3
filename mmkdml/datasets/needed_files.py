"""Files that data sets with split files need, and the commands that write them."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from mmkdml.commands import tool_command
from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.volumes.store import volume_file
from mmkdml.registry import DATASETS

# Folder of the synthetic data that `make demo` generates.
_DEMO = 'data/demo/kaggle_3m'


@dataclass(frozen=True)
class NeededFiles:
    """Files that a data set needs.

    Attributes:
        data_root: Folder of the images; empty for the working directory.
        files: Split files, that of the data set first, and files with boxes.
        command: Command that writes the split files.
    """

    data_root: str
    files: tuple[str, ...]
    command: str

    def missing(self) -> list[str]:
        """Return the missing files and folders; of the images only the first one is checked."""
        missing = [self.data_root] if self.data_root and not Path(self.data_root).is_dir() else []
        missing += [file for file in self.files if not Path(file).is_file()]
        if not missing and (image := _first_image(self.files[0])):
            path = Path(self.data_root, volume_file(image))
            missing += [] if path.is_file() else [str(path)]
        return missing


def needed_files(settings: Any, folds: int | None = None) -> Iterator[NeededFiles]:
    """Yield the needed files of each data set in settings.

    Data sets without split files, and custom ones that load them in their own way, are left out.

    Args:
        settings: Settings of data loaders or data sets, also of wrapped ones.
        folds: Number of folds if the split files are those of a fold, in a folder of its own.
    """
    if isinstance(settings, Mapping):
        kind = settings.get('type')
        kind = DATASETS.get(kind) if isinstance(kind, str) else kind
        if _reads_split_files(kind) and isinstance(settings.get('ann_file'), str | Path):
            root = str(settings.get('data_root') or '')
            files = tuple(map(str, kind.annotation_files(settings)))
            yield NeededFiles(root, files, _command(kind, root, Path(files[0]), folds))
        for key, value in settings.items():
            if key != 'pipeline':
                yield from needed_files(value, folds)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from needed_files(value, folds)


def _reads_split_files(kind: Any) -> TypeGuard[type[SplitFileMixin]]:
    if not (isinstance(kind, type) and issubclass(kind, SplitFileMixin)):
        return False
    methods = (kind.__init__, kind.load_data_list, kind._join_prefix)
    return all(method.__module__.startswith('mmkdml.') for method in methods)


def _first_image(split: str) -> str | None:
    # An invalid file is reported, with the line, when the data set is built.
    with (
        suppress(OSError, ValueError, csv.Error),
        open(split, encoding='utf-8-sig', newline='') as file,
    ):
        return next(csv.DictReader(file), {}).get('path')
    return None


def _command(kind: type[SplitFileMixin], root: str, ann_file: Path, folds: int | None) -> str:
    out = ann_file.parent.parent if folds else ann_file.parent
    name, *options = kind.converter.split()
    options += ['--folds', str(folds)] if folds else []
    tool = tool_command(f'dataset_converters/{name}')
    # The converter of volumes writes the folder data_root itself.
    source = 'SOURCE' if Path(root).parent == out else root or '.'
    command = ' '.join([tool, source, '--out', str(out), *options])
    if root == _DEMO:
        command = f'{tool_command("dataset_converters/make_demo_data")} {root} && {command}'
    return command
