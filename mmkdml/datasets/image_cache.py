"""Cache of decoded images in files that all workers, processes and runs share.

A pack is one file: a table with a row per sample, followed by pixels. A row contains the checksum
of the pixels and the state (size, times) of the image file when it was decoded, so that a changed
file is decoded again. A pack is written atomically under a lock, and contains only numbers.
"""

from __future__ import annotations

import hashlib
import os
import os.path as osp
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import mmcv
import numpy as np
import PIL
from filelock import FileLock
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.logging import print_log

from mmkdml.datasets.class_masks import MASK_TABLE
from mmkdml.datasets.images import READER_VERSION
from mmkdml.datasets.transforms import (
    LoadBinaryMask,
    LoadCheckedImage,
    LoadClassMask,
    LoadMultiChannelImage,
)
from mmkdml.files import atomic_writer, remove_partial_files

GIB = 2**30
# Sample keys of each cached transform: those of its input files, and that of the pixels.
_LOADERS: dict[type, tuple[tuple[str, ...], str]] = {
    **dict.fromkeys(
        (LoadImageFromFile, LoadCheckedImage, LoadMultiChannelImage), (('img_path',), 'img')
    ),
    **dict.fromkeys((LoadClassMask, LoadBinaryMask), (('seg_map_path', 'img_path'), 'gt_seg_map')),
}
_HINTS = ('masks_drawn_on', MASK_TABLE)  # sample keys that affect the pixels of masks
# Columns of the table, int64: the state of the files, the offset, (H, W, C) and the checksum of the
# pixels. C is 0 for (H, W); H is 0 if the image is not in the pack.
_STATE, _OFFSET, _SHAPE, _CHECKSUM, _COLUMNS = slice(0, 4), 4, slice(5, 8), 8, 9
_ROW_BYTES = 8 * _COLUMNS
_ADVICE = 'To cache them, delete unused packs and this one, or set a higher limit'


def cached_pipeline(
    transforms: Sequence[Any], samples: Sequence[Mapping[str, Any]], dir: str, limit: float = 8.0
) -> list[Any]:
    """Replace the loading transforms of a pipeline by cached ones, and fill the cache.

    New and changed files are decoded immediately; other processes wait. Images that exceed the
    limit, or are not decoded to 8 bits, are read from their files each time.

    Args:
        transforms: The pipeline. The loaders of this package and mmcv's ``LoadImageFromFile`` are
            replaced, but not their subclasses.
        samples: Data infos of all samples, in the order of their ``sample_idx``.
        dir: Folder of the packs, created if missing. Data sets and runs may share it.
        limit: Maximum size of all packs in the folder, in GiB, > 0.

    Returns:
        The new transforms.

    Raises:
        ValueError: If the limit is not positive.
        OSError: If writing a pack fails, such as on a full disk.
    """
    if not limit > 0:
        raise ValueError(f'Invalid limit of the image cache: expected GiB > 0, got {limit}')
    folder = Path(dir)
    cached = []
    for load in transforms:
        if type(load) in _LOADERS:
            pack = _prepare(folder, samples, load, int(limit * GIB))
            load = CachedLoading(load, pack) if pack else load
        cached.append(load)
    return cached


class CachedLoading(BaseTransform):
    """Load an image or a mask from a pack, or with the wrapped transform.

    Required keys: ``sample_idx`` and those of the wrapped transform.
    Added keys: those of the wrapped transform.

    Args:
        load: One of the transforms that :func:`cached_pipeline` replaces.
        pack: Pack of the pixels that it decodes.
    """

    def __init__(self, load: BaseTransform, pack: PixelPack) -> None:
        self.load = load
        self.pack = pack
        self.sources, self.field = _LOADERS[type(load)]

    def transform(self, results: dict[str, Any]) -> dict[str, Any] | None:
        """Add a copy of the pixels.

        Raises:
            ValueError: If the pack is damaged.
        """
        files = [results[key] for key in self.sources if key in results]
        pixels = self.pack.read(results['sample_idx'], files)
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
    """Decoded images of the samples of a data set.

    The open file is not pickled; each process opens it itself. It is not mapped into memory,
    because truncating a mapped file would kill the process.

    Args:
        path: The file.
        count: Number of samples.
    """

    def __init__(self, path: Path, count: int) -> None:
        self.path = path
        self.count = count
        self._file: BinaryIO | None = None
        self._table: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), '_file': None, '_table': None}

    @property
    def table(self) -> np.ndarray:
        """Table (samples, 9), int64; with fewer rows if the file is truncated."""
        if self._table is None:
            head = self._read(0, self.count * _ROW_BYTES)
            rows = head[: len(head) // _ROW_BYTES * _ROW_BYTES]
            self._table = rows.view(np.int64).reshape(-1, _COLUMNS)
        return self._table

    def read(self, index: int, files: Sequence[str]) -> np.ndarray | None:
        """Return the pixels of a sample; None if they are not cached or its files have changed.

        Raises:
            ValueError: If the pixels are damaged.
        """
        if index < len(self.table):
            row = self.table[index]
            shape = _shape(row)
            if not shape or tuple(row[_STATE].tolist()) != _state(files):
                return None
            pixels = self._read(int(row[_OFFSET]), int(np.prod(shape)))
            if _checksum(pixels, shape) == row[_CHECKSUM]:
                return pixels.reshape(shape)
        raise ValueError(
            f'{self.path}: expected the pixels of {files[0]}, got damaged or truncated data. '
            'Delete the file; the next run decodes the images again'
        )

    def matches(self, states: np.ndarray) -> bool:
        """Return whether the pack exists, is complete, and the files still have these states."""
        if not self.path.is_file() or not self.path.stat().st_size:
            return False
        table = self.table
        if not np.array_equal(table[:, _STATE], states):
            return False
        height, width, channels = table[:, _SHAPE].T.astype(float)  # floats do not overflow
        ends = table[:, _OFFSET] + height * width * np.maximum(channels, 1)
        size = self.path.stat().st_size
        return bool((table[:, _OFFSET:] >= 0).all() and (ends <= size).all())

    def _read(self, offset: int, count: int) -> np.ndarray:
        """Read up to ``count`` bytes as uint8."""
        if self._file is None:
            self._file = self.path.open('rb', buffering=0)
        content = np.empty(count, np.uint8)
        if hasattr(os, 'preadv'):  # forked workers share the position in the file
            got = os.preadv(self._file.fileno(), [content.data], offset)
        else:
            self._file.seek(offset)
            got = self._file.readinto(content)  # type: ignore[attr-defined]
        return content[:got]


def _prepare(
    folder: Path, samples: Sequence[Mapping[str, Any]], load: Any, limit: int
) -> PixelPack | None:
    """Find or write the pack of the samples as decoded by ``load``; None if the folder is full."""
    sources, field = _LOADERS[type(load)]
    files = [[osp.abspath(sample[key]) for key in sources if key in sample] for sample in samples]
    keys = () if field == 'img' else _HINTS
    hints = [{key: one[key] for key in keys if key in one} or None for one in samples]
    # Other versions of these libraries may decode to other pixels.
    versions = cv2.__version__, PIL.__version__, mmcv.__version__, READER_VERSION, _COLUMNS
    how = [type(load).__name__, sorted(vars(load).items()), *versions]
    name = hashlib.sha256('\0'.join(map(str, [how, *zip(files, hints, strict=True)])).encode())
    pack = PixelPack(folder / f'{name.hexdigest()[:32]}.pack', len(files))
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / '.lock'):
        states = np.array([_state(one) for one in files], np.int64)
        if not pack.matches(states):
            remove_partial_files(folder)
            others = sum(other.stat().st_size for other in folder.glob('*.pack'))
            others -= pack.path.stat().st_size if pack.path.exists() else 0
            room = limit - others
            if len(files) * _ROW_BYTES > room:
                message = f'{folder} has no room for {len(files)} more samples. {_ADVICE}'
                print_log(message, 'current')
                return None
            inputs = [
                dict(zip(sources, one, strict=False), **(hint or {}))
                for one, hint in zip(files, hints, strict=True)
            ]
            number = len({one[0] for one in files})
            print_log(f'Decoding {number} files into {pack.path}', 'current')
            _write(pack.path, inputs, states, load, room)
            pack = PixelPack(pack.path, len(files))
    missing = int((pack.table[:, _SHAPE.start] == 0).sum())
    if missing:
        print_log(
            f'{missing} of {len(files)} samples are not in {pack.path} (no room, or not decoded to '
            f'8 bits) and are read from their files. {_ADVICE}',
            'current',
        )
    return pack


def _write(
    path: Path, inputs: Sequence[dict[str, Any]], states: np.ndarray, load: Any, room: int
) -> None:
    """Decode each input once with ``load`` and write a pack of at most ``room`` bytes."""
    _, field = _LOADERS[type(load)]
    table = np.zeros((len(inputs), _COLUMNS), np.int64)
    table[:, _STATE] = states
    end = table.nbytes
    first: dict[tuple[Any, ...], int] = {}
    with atomic_writer(path) as out:
        out.seek(end)
        for index, results in enumerate(inputs):
            key = tuple(results.values())
            if first.setdefault(key, index) < index:
                table[index] = table[first[key]]
                continue
            pixels = _decode(load, {**results, 'seg_fields': []}, field)
            if pixels is None:
                continue
            if end + pixels.nbytes > room:
                break
            table[index, _OFFSET] = end
            table[index, _SHAPE] = (*pixels.shape, 0)[:3]
            table[index, _CHECKSUM] = _checksum(pixels, pixels.shape)
            end += out.write(pixels.tobytes())
        out.seek(0)
        out.write(table.tobytes())


def _decode(load: Any, results: dict[str, Any], field: str) -> np.ndarray | None:
    """Return the pixels of an image; None if a pack cannot store them."""
    try:
        pixels = load(results)[field]
    except Exception:  # raised again when the sample is loaded
        return None
    return pixels if pixels.dtype == np.uint8 and pixels.ndim in (2, 3) and pixels.size else None


def _shape(row: np.ndarray) -> tuple[int, ...]:
    """Return the shape of an image, (H, W) or (H, W, C); empty if it is not in the pack."""
    height, width, channels = row[_SHAPE].tolist()
    if not height:
        return ()
    return (height, width, channels) if channels else (height, width)


def _checksum(pixels: np.ndarray, shape: Sequence[int]) -> int:
    return zlib.crc32(np.ascontiguousarray(pixels).data, zlib.crc32(repr(tuple(shape)).encode()))


def _state(files: Sequence[str]) -> tuple[int, ...]:
    """Return four integers that change when one of the files changes."""
    states = [_state_of(file) for file in files]
    return states[0] if len(states) == 1 else tuple(map(hash, zip(*states, strict=True)))


def _state_of(file: str) -> tuple[int, int, int, int]:
    """Return size, times and inode of a file; zeros if it does not exist."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0, 0, 0
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino & 2**63 - 1
