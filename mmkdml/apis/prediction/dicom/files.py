"""Opening DICOM files and decoding their frames, with limits on the decompressed size."""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkdml.apis.prediction.volume import reading, require_medical
from mmkdml.optional import install_command

#: Number of frames, rows and columns of a file.
Shape = tuple[int, int, int]

_LARGEST_HEADER = 2**24  # bytes of a deflated file other than pixels
_JPEG_LS = b'\xff\xd8\xff\xf7'  # start of image and of frame
_PIXELS = ('FloatPixelData', 'DoubleFloatPixelData', 'PixelData')
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
# In order of preference. Corrupt pixels crash the process in GDCM and cause a panic in
# pylibjpeg-rle: the former is never used, the latter only after pydicom's own decoder.
_PLUGINS = ('pydicom', 'pyjpegls', 'pylibjpeg', 'pillow')


def open_dicom(path: str | Path, shape: Shape | None = None) -> Any:
    """Read a file, with a limit on its decompressed size.

    Args:
        path: The file.
        shape: Shape of its pixels. Default: read only the elements before the pixels.

    Raises:
        ValueError: If a deflated file is larger than such pixels, a compressed frame decodes to
            another size, or there are no pixels.
    """
    pydicom = require_medical('pydicom')
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get('TransferSyntaxUID') != pydicom.uid.DeflatedExplicitVRLittleEndian:
        one = pydicom.dcmread(path, stop_before_pixels=shape is None)
    else:
        one = _inflate(path, shape)
        one.file_meta = meta
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if shape is not None:
        if not any(one.get(key) for key in _PIXELS):
            raise ValueError('expected pixels, got none')
        _check_frames(one, shape)
    return one


def decode(path: str | Path, indices: Sequence[int], shape: Shape) -> Iterator[np.ndarray]:
    """Yield the stored values of some frames of a file, (rows, columns) each.

    Args:
        path: The file.
        indices: Numbers of the frames from 0, in any order.
        shape: Shape of its pixels.

    Raises:
        ValueError: If the pixels are missing, truncated or of another shape.
    """
    pydicom = require_medical('pydicom')
    with reading(path, 'DICOM'):
        one = open_dicom(path, shape)
        plugin = _plugin(one) or ''
        pixels = pydicom.pixels.iter_pixels(one, indices=indices, raw=True, decoding_plugin=plugin)
        for values in pixels:
            yield values.reshape(shape[1:])


def check_decoder(one: Any, path: str | Path) -> None:
    """Raise ValueError if no installed package decodes the pixels of an opened file."""
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated or _plugin(one):
        return
    name = f'{path}: the pixels are compressed as {syntax.name}'
    pydicom = require_medical('pydicom')
    if not syntax.is_transfer_syntax or syntax not in pydicom.uid.AllTransferSyntaxes:
        raise ValueError(f'{name}: expected a known transfer syntax. Decompress the files')
    if 'JPEG' in syntax.name and 'LS' not in syntax.name and '2000' not in syntax.name:
        raise ValueError(
            f'{name}: expected a package that decodes them, got none. Run: pip install pylibjpeg '
            'pylibjpeg-libjpeg (license: GPL 3), or decompress the files, for example by dcmdjpeg'
        )
    raise ValueError(
        f'{name}: expected a package that decodes them, got none. '
        f'Run: {install_command("medical")}, or decompress the files'
    )


def _plugin(one: Any) -> str | None:
    """Return the name of pydicom's plugin for an encapsulated file; None if there is none."""
    pydicom = require_medical('pydicom')
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return None
    try:
        available = pydicom.pixels.get_decoder(syntax).available_plugins
    except NotImplementedError:
        return None
    twelve_bits = syntax == pydicom.uid.JPEGExtended12Bit and one.get('BitsStored') != 8
    plugins = (name for name in _PLUGINS if not (twelve_bits and name == 'pillow'))
    return next((name for name in plugins if name in available), None)


def _inflate(path: str | Path, shape: Shape | None) -> Any:
    """Read a deflated file up to its expected size; pydicom would inflate all of it."""
    pydicom = require_medical('pydicom')
    with Path(path).open('rb') as file:
        file.seek(132)  # after the preamble and prefix
        for _ in pydicom.filereader.data_element_generator(
            file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2
        ):
            pass
        deflated = file.read()
    limit = _LARGEST_HEADER + (8 * math.prod(shape) if shape else 0)
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(deflated, limit + 1)
    if shape is not None and len(content) > limit:
        raise ValueError(
            f'expected at most {limit} bytes for {shape[0]} x {shape[1]} x {shape[2]} pixels, got '
            'more after decompression'
        )
    stop = None if shape else (lambda tag, *_: tag in _PIXEL_TAGS)
    return pydicom.filereader.read_dataset(io.BytesIO(content), False, True, stop_when=stop)


def _check_frames(one: Any, shape: Shape) -> None:
    """Raise ValueError if a compressed frame decodes to more pixels than the header declares."""
    pydicom = require_medical('pydicom')
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    size = shape[1:]
    for frame in pydicom.encaps.generate_frames(one.PixelData, number_of_frames=shape[0]):
        if syntax == pydicom.uid.RLELossless:
            limit = 4 * size[0] * size[1] * 2 + 2**16  # twice 32 bits per pixel
            if len(frame) > limit:
                raise ValueError(f'expected at most {limit} bytes of run lengths, got {len(frame)}')
            continue
        if frame.startswith(_JPEG_LS):  # header: length (2 bytes), precision (1), rows, columns
            decoded = struct.unpack_from('>HH', frame, len(_JPEG_LS) + 3)
        else:
            try:
                with Image.open(io.BytesIO(frame)) as image:
                    decoded = image.size[::-1]
            except OSError:  # Pillow does not decode this format
                continue
        if decoded != size:
            raise ValueError(f'expected a compressed image of {size} pixels, got {decoded}')
