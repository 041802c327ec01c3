"""Images that are decoded once, into files which all workers, processes and runs map into memory.

A pack is one file: a table with a row for each sample, then pixels. Rows say what the image's file
was like when it was decoded, so that one that changes is decoded anew. A pack is written under a
lock, to the disk itself, and then takes its place at once: what is read is whole or not there. It
holds numbers alone.
"""

from __future__ import annotations

import hashlib
import os
import os.path as osp
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import PIL
from filelock import FileLock
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.logging import print_log

from mmkdml.datasets.transforms import LoadBinaryMask
from mmkdml.files import atomic_writer

GIB = 2**30
# Of what is read by which transform: the keys of its file and of its pixels
_LOADERS: dict[type, tuple[str, str]] = {
    LoadImageFromFile: ('img_path', 'img'),
    LoadBinaryMask: ('seg_map_path', 'gt_seg_map'),
}
# Columns of the table, int64: the state of a file, where its pixels lie, and (H, W, C) of them. C
# is 0 of (H, W), and H of an image that is not in the pack.
_STATE, _OFFSET, _SHAPE, _COLUMNS = slice(0, 4), 4, slice(5, 8), 8
_ROW_BYTES = 8 * _COLUMNS
_ADVICE = 'To have them kept, delete what is not needed there, and this pack, or set a higher limit'


def cached_pipeline(
    transforms: Sequence[Any], samples: Sequence[Mapping[str, Any]], dir: str, limit: float = 8.0
) -> list[Any]:
    """A pipeline whose ``LoadImageFromFile`` and ``LoadBinaryMask`` find their files decoded.

    Files that are not yet, or have changed, are decoded here; other processes that want the same
    wait. What does not fit is read from its file each time, as is what cannot be decoded to 8 bits.

    Args:
        transforms: The pipeline; of it, only these two themselves are replaced, no subclasses.
        samples: What the data set knows of its samples, in the order of their ``sample_idx``.
        dir: Folder of the packs; made if missing. Data sets and runs may share it.
        limit: GiB that all packs in it may take together, > 0.

    Returns:
        The transforms.

    Raises:
        ValueError: If the limit is not above 0.
        OSError: If the packs cannot be written, as on a full disk.
    """
    if not limit > 0:
        raise ValueError(f'The limit of an image cache, in GiB, must be above 0; got {limit}')
    folder = Path(dir)
    cached = []
    for load in transforms:
        if type(load) in _LOADERS:
            files = [osp.abspath(sample[_LOADERS[type(load)][0]]) for sample in samples]
            pack = _prepare(folder, files, load, int(limit * GIB))
            load = CachedLoading(load, pack) if pack else load
        cached.append(load)
    return cached


class CachedLoading(BaseTransform):
    """Loads an image or a mask from a pack, or as it would be without.

    Required key: ``sample_idx``, and those of the wrapped transform, which says what is added.

    Args:
        load: ``LoadImageFromFile`` or :class:`LoadBinaryMask`.
        pack: The pack that was made with it.
    """

    def __init__(self, load: BaseTransform, pack: PixelPack) -> None:
        self.load = load
        self.pack = pack
        self.source, self.field = _LOADERS[type(load)]

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Adds the pixels, which are the caller's own."""
        pixels = self.pack.read(results['sample_idx'], results[self.source])
        if pixels is None:
            return self.load(results)
        results[self.field] = pixels
        if self.field == 'img':
            results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
        else:
            results['seg_fields'].append(self.field)
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.load})'


class PixelPack:
    """Decoded images of a data set's samples.

    Handed to another process it is a path alone; the process maps the file itself.

    Args:
        path: The file.
        count: Number of samples.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.count = count
        self._content: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_content': None}

    @property
    def content(self) -> np.ndarray:
        """All bytes (B,), uint8, not to be written to; the system reads what is asked for."""
        if self._content is None:
            self._content = np.asarray(np.memmap(self.path, np.uint8, 'r'))
        return self._content

    @property
    def table(self) -> np.ndarray:
        """The rows of the samples, as far as they are there."""
        head = self.content[: self.count * _ROW_BYTES]
        return head[: len(head) // _ROW_BYTES * _ROW_BYTES].view(np.int64).reshape(-1, _COLUMNS)

    def read(self, place: int, file: str) -> np.ndarray | None:
        """A copy of a sample's pixels; None if they are not here or its file is another now.

        Args:
            place: The sample's number.
            file: Its file.
        """
        row = self.table[place]
        height, width, channels = row[_SHAPE].tolist()
        if not height or tuple(row[_STATE].tolist()) != _state(file):
            return None
        shape = (height, width, channels) if channels else (height, width)
        start = int(row[_OFFSET])
        return self.content[start : start + height * width * (channels or 1)].reshape(shape).copy()

    def is_of(self, states: np.ndarray) -> bool:
        """Whether it is there, whole, and of files in these states."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return False
        table = self.table
        if not np.array_equal(table[:, _STATE], states):
            return False
        height, width, channels = table[:, _SHAPE].T.astype(float)  # where nothing overflows
        ends = table[:, _OFFSET] + height * width * np.maximum(channels, 1)
        return bool((table[:, _OFFSET:] >= 0).all() and (ends <= len(self.content)).all())


def _prepare(folder: Path, files: Sequence[str], load: Any, limit: int) -> PixelPack | None:
    """The pack of the files as ``load`` reads them, found or made; None if there is no room."""
    # Other versions of these may decode to other pixels.
    how = [type(load).__name__, sorted(vars(load).items()), cv2.__version__, PIL.__version__]
    name = hashlib.sha256('\0'.join([str([*how, mmcv.__version__, 1]), *files]).encode())
    pack = PixelPack(folder / f'{name.hexdigest()[:32]}.pack', len(files))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / '.lock'):
        states = np.array([_state(file) for file in files], np.int64)
        if not pack.is_of(states):
            for part in folder.glob('.*.part'):  # of a process that was killed
                part.unlink()
            others = sum(other.stat().st_size for other in folder.glob('*.pack'))
            others -= pack.path.stat().st_size if pack.path.exists() else 0
            room = limit - others
            if len(files) * _ROW_BYTES > room:
                print_log(
                    f'{folder} has no room for {len(files)} more samples. {_ADVICE}', 'current'
                )
                return None
            print_log(f'Decoding {len(set(files))} files into {pack.path}', 'current')
            _write(pack.path, files, states, load, room)
            pack = PixelPack(pack.path, len(files))
    missing = int((pack.table[:, _SHAPE.start] == 0).sum())
    if missing:
        print_log(
            f'{missing} of {len(files)} samples are not in {pack.path}, for lack of room or since '
            f'they cannot be decoded to 8 bits, and are read from their files. {_ADVICE}',
            'current',
        )
    return pack


def _write(path: Path, files: Sequence[str], states: np.ndarray, load: Any, room: int) -> None:
    source, field = _LOADERS[type(load)]
    table = np.zeros((len(files), _COLUMNS), np.int64)
    table[:, _STATE] = states
    end = table.nbytes
    first: dict[str, int] = {}
    with atomic_writer(path) as out:
        out.seek(end)
        for place, file in enumerate(files):
            if first.setdefault(file, place) < place:
                table[place] = table[first[file]]
                continue
            pixels = _decode(load, {source: file, 'seg_fields': []}, field)
            if pixels is None:
                continue
            if end + pixels.nbytes > room:
                break
            table[place, _OFFSET] = end
            table[place, _SHAPE] = (*pixels.shape, 0)[:3]
            end += out.write(pixels.tobytes())
        out.seek(0)
        out.write(table.tobytes())


def _decode(load: Any, results: dict[str, Any], field: str) -> np.ndarray | None:
    """The pixels of one image if a pack can hold them."""
    try:
        pixels = load(results)[field]
    except Exception:  # its sample will say so, if it is asked for
        return None
    return pixels if pixels.dtype == np.uint8 and pixels.ndim in (2, 3) and pixels.size else None


def _state(file: str) -> tuple[int, int, int, int]:
    """What changes when a file does; zeros if it is not there."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & 2**63 - 1
