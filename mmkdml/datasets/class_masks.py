"""Masks of several classes, with a table of their values or colors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.fileio import list_from_file
from PIL.TiffImagePlugin import TiffImageFile

from mmkdml.datasets.image_files import (
    apply_orientation,
    bits_per_channel,
    check_size,
    decoder_errors,
    exif_orientation,
    has_more_pages,
    has_unsigned_samples,
    open_image,
    stored_channels,
    unsupported,
)
from mmkdml.datasets.images import MAX_PIXELS, ImageHeader, fit_mask, read_image

#: Class index of pixels that losses and metrics ignore.
IGNORED = 255
#: Entry of ``splits.json`` and of a data set's metainfo, and key of a sample.
MASK_TABLE = 'mask_table'
Value = int | tuple[int, int, int]

_VALUE_MODES = ('1', 'L', 'P', 'I;16', 'I;16L', 'I;16B')
_MAX_VALUE = 2**16 - 1
_MAX_NAMED = 8


@dataclass(frozen=True)
class ClassTable:
    """Values of masks and their classes.

    Attributes:
        values: Value of each class in the mask files, in the order of the classes, the background
            first: integers in [0, 65535], which for a palette image are the indices of its pixels;
            or colors (r, g, b) in [0, 255].
        ignore: Values of ignored pixels, of the same kind.
        colors: Color (r, g, b) of each class in figures and predicted masks. Default: ``values`` if
            these are colors, otherwise none.

    Raises:
        ValueError: If there are not 2 to 255 classes, or a value is invalid or occurs twice.
    """

    values: tuple[Value, ...]
    ignore: tuple[Value, ...] = ()
    colors: tuple[tuple[int, int, int], ...] | None = None

    def __post_init__(self) -> None:
        if not 2 <= len(self.values) < IGNORED + 1:
            raise ValueError(f'expected 2 to 255 classes, got {len(self.values)}')
        every = [*self.values, *self.ignore]
        is_color = [isinstance(value, tuple) for value in every]
        if any(is_color) and not all(is_color):
            raise ValueError(f'expected only values or only colors r,g,b, got {_names(every)}')
        for value in every:
            parts = value if isinstance(value, tuple) else (value,)
            number, top = (3, 255) if isinstance(value, tuple) else (1, _MAX_VALUE)
            valid = all(type(one) is int and 0 <= one <= top for one in parts)
            if not valid or len(parts) != number:
                raise ValueError(
                    'expected values in [0, 65535] or colors r,g,b in [0, 255], got '
                    f'{value_name(value)}'
                )
        if twice := sorted({value for value in every if every.count(value) > 1}, key=str):
            raise ValueError(f'expected each value once, got {_names(twice)} twice')
        if all(is_color):
            object.__setattr__(self, 'colors', self.colors or self.values)
        elif self.colors is not None and len(ClassTable(self.colors).values) != len(self.values):
            raise ValueError(
                f'expected a color for each of {len(self.values)} classes, got {len(self.colors)}'
            )

    @property
    def by_color(self) -> bool:
        """True if the values are colors."""
        return isinstance(self.values[0], tuple)

    def to_info(self) -> dict[str, Any]:
        """Return the table as JSON values; see :meth:`from_info`."""
        return asdict(self)

    @classmethod
    def from_info(cls, info: Any) -> ClassTable:
        """Build a table from a mapping with ``values`` and optionally ``ignore`` and ``colors``.

        Raises:
            ValueError: If the mapping is invalid.
        """
        if isinstance(info, ClassTable):
            return info
        known = {'values', 'ignore', 'colors'}
        if not isinstance(info, Mapping) or not {'values'} <= set(info) <= known:
            raise ValueError(
                f'Invalid {MASK_TABLE}: expected a dict of values, ignore and colors, got {info!r}'
            )
        try:
            return cls(**{key: _as_tuples(info[key]) for key in info if info[key] is not None})
        except (ValueError, TypeError) as error:
            raise ValueError(f'Invalid {MASK_TABLE}: {error}') from error


def read_class_mask(
    path: str | Path,
    table: ClassTable,
    header: ImageHeader | None = None,
    drawn_on: str | None = None,
) -> np.ndarray:
    """Read a mask as class indices (H, W), uint8, with :data:`IGNORED` for ignored pixels.

    Args:
        path: The mask: 8 or 16 bits, gray or palette, or RGB if the table has colors.
        table: Values of the classes.
        header: Header of its image; see :func:`~mmkdml.datasets.images.read_binary_mask`.
        drawn_on: See there.

    Raises:
        ValueError: If the file is unreadable, has values that are not in the table, or does not fit
            its image.
    """
    mask = _indices(_read_values(path, table.by_color), table, path)
    return mask if header is None else fit_mask(mask, header, drawn_on, path)


def data_set_classes(
    metainfo: Mapping[str, Any], manifest: Mapping[str, Any], table: Any = None
) -> tuple[dict[str, Any], ClassTable | None]:
    """Find the classes of a data set and the table of its masks.

    Args:
        metainfo: Settings of the data set: ``classes`` and ``palette``, if any.
        manifest: Content of ``splits.json``; empty if there is none.
        table: Table of the data set; see :meth:`ClassTable.from_info`. Default: that of the
            manifest. Without a manifest, the values of more than two classes are 0, 1, ...

    Returns:
        The metainfo with classes, colors and table, and the table; None for binary masks.

    Raises:
        ValueError: If the classes differ from those of the manifest, their number differs from that
            of the values, or binary masks do not have two.
    """
    names, known = metainfo.get('classes'), manifest.get('classes') or ()
    names = tuple(list_from_file(names) if isinstance(names, str) else names or ()) or None
    if manifest.get(MASK_TABLE) is not None:
        if names is not None and names != tuple(known):
            raise ValueError(
                f'Invalid classes in the metainfo: expected {len(known)} classes, {tuple(known)}, '
                f'as in splits.json, got {names}. Remove them, or convert the data with other '
                '--classes'
            )
        names, table = tuple(known), table or manifest[MASK_TABLE]
    elif table is None and not manifest and names is not None and len(names) > 2:
        table = dict(values=range(len(names)))
    if table is None:
        if names is not None and len(names) != 2:
            raise ValueError(
                'Invalid classes in the metainfo: expected two classes, the background first, for '
                f'binary masks, got {names}. For more, convert the data with --classes, or set '
                f'{MASK_TABLE} of the data set'
            )
        return dict(metainfo), None
    own = ClassTable.from_info(table)
    if names is None or len(names) != len(own.values):
        raise ValueError(
            f'Invalid classes in the metainfo: expected {len(own.values)} names, as {MASK_TABLE} '
            f'has {len(own.values)} values, got {names}'
        )
    colors = own.colors or class_palette(len(names))
    found = dict(classes=names, palette=[list(color) for color in colors])
    return {**found, **metainfo, 'classes': names, MASK_TABLE: own.to_info()}, own


def class_palette(number: int) -> list[list[int]]:
    """Return distinct colors of classes, (number, 3), black first: the color map of Pascal VOC."""
    bits = np.arange(number)[:, None] >> np.arange(9) & 1
    weights = 1 << 7 - np.arange(9) // 3  # bit 3k + c of the index is bit 7 - k of channel c
    return (bits * weights).reshape(number, 3, 3).sum(1).tolist()


def value_name(value: Any) -> str:
    """Format a value or a color for messages."""
    return ','.join(map(str, value)) if isinstance(value, tuple) else str(value)


def _names(values: Sequence[Any]) -> str:
    return ' '.join(map(value_name, values))


def _as_tuples(values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | int):
        raise TypeError(f'expected a list of values or colors, got {values!r}')
    return tuple(tuple(one) if isinstance(one, list | tuple) else one for one in values)


def _read_values(path: str | Path, by_color: bool) -> np.ndarray:
    """Read (H, W) of values, or of colors as one number."""
    if by_color:
        red, green, blue = np.moveaxis(read_image(path).astype(np.int32), 2, 0)
        return red << 16 | green << 8 | blue
    with open_image(path) as image:
        check_size(image.width * image.height, MAX_PIXELS, path)
        with decoder_errors(path):
            several, bits = has_more_pages(image), bits_per_channel(image)
        is_tiff = isinstance(image, TiffImageFile)
        valid = image.mode in _VALUE_MODES and (bits <= 8 or image.mode.startswith('I;16'))
        if isinstance(image, TiffImageFile):
            valid &= has_unsigned_samples(image) and stored_channels(image) == 1
        if several or not valid:
            found = 'several pages' if several else f'mode {image.mode}, {bits} bits per channel'
            advice = 'For masks of RGB colors, list r, g and b of each class in the table'
            raise unsupported(path, found, 'a gray or palette mask of 8 or 16 bits', advice)
        image.info.pop('xmp', None)  # Pillow would apply its orientation, but only to TIFF
        with decoder_errors(path):
            image.load()
            pixels = np.asarray(image).astype(np.int32)
        # Pillow has already rotated a TIFF.
        return pixels if is_tiff else apply_orientation(pixels, exif_orientation(image))


def _indices(pixels: np.ndarray, table: ClassTable, path: str | Path) -> np.ndarray:
    every = [*table.values, *table.ignore]
    codes = np.array([_code(value) for value in every])
    order = np.argsort(codes)
    place = np.searchsorted(codes, pixels, sorter=order).clip(max=len(codes) - 1)
    found = order[place]
    unknown = codes[found] != pixels
    if unknown.any():
        values, counts = np.unique(pixels[unknown], return_counts=True)
        named = [
            f'{value_name(_value(value, table.by_color))} ({count} pixels)'
            for value, count in zip(values[:_MAX_NAMED].tolist(), counts.tolist(), strict=False)
        ]
        more = ', ...' if len(values) > _MAX_NAMED else ''
        lossy = Path(path).suffix.lower() in ('.jpg', '.jpeg')
        advice = 'JPEG alters values: export masks as PNG' if lossy else 'Add them to the table, or'
        raise ValueError(
            f'{path}: expected the values {_names(every)} of the table of classes, got '
            f'{", ".join(named)}{more}. {advice}{"" if lossy else " to the ignored values"}'
        )
    indices = np.arange(len(every))
    indices[len(table.values) :] = IGNORED
    return indices[found].astype(np.uint8)


def _code(value: Value) -> int:
    return value if isinstance(value, int) else value[0] << 16 | value[1] << 8 | value[2]


def _value(code: int, is_color: bool) -> Value:
    return (code >> 16, code >> 8 & 255, code & 255) if is_color else code
