"""DICOM files, whose sizes are checked before they are decompressed.

Needs pydicom, an optional package of ``pip install mmkdml[medical]``.
"""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any

from PIL import Image

from mmkdml.apis.prediction.volumes import package

# Bytes of a deflated file that are not pixels.
_LARGEST_HEADER = 2**24
_PIXELS = (0x7FE00008, 0x7FE00009, 0x7FE00010)  # tags of doubles, floats and integers


def open_dicom(path: str | Path, size: tuple[int, int] | None = None) -> Any:
    """Read a DICOM file.

    Args:
        path: The file.
        size: (rows, columns) of its image, which is read, too. Default: all elements before it.

    Raises:
        ValueError: If a deflated file is larger than such an image, or a compressed image decodes
            to another size.
    """
    pydicom = package('pydicom')
    meta = pydicom.filereader.read_file_meta_info(path)
    if meta.get('TransferSyntaxUID') != pydicom.uid.DeflatedExplicitVRLittleEndian:
        one = pydicom.dcmread(path, stop_before_pixels=size is None)
    else:
        one = _inflated(path, size)
        one.file_meta = meta
        one.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    if size is not None:
        _check_frame(one, size)
    return one


def _inflated(path: str | Path, size: tuple[int, int] | None) -> Any:
    """Read a deflated file up to its expected size; pydicom would inflate all of it."""
    pydicom = package('pydicom')
    with Path(path).open('rb') as file:
        file.seek(132)  # the preamble and its mark
        for _ in pydicom.filereader.data_element_generator(
            file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2
        ):
            pass
        packed = file.read()
    most = _LARGEST_HEADER + 8 * (size[0] * size[1] if size else 0)
    content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, most + 1)
    if size is not None and len(content) > most:
        raise ValueError(
            f'expected at most {most} bytes for {size[0]} x {size[1]} pixels, got more after '
            'decompression'
        )
    stop = None if size else (lambda tag, *_: tag in _PIXELS)
    return pydicom.filereader.read_dataset(io.BytesIO(content), False, True, stop_when=stop)


def _check_frame(one: Any, size: tuple[int, int]) -> None:
    """Refuse a compressed image that decodes to more pixels than its header declares."""
    pydicom = package('pydicom')
    syntax = one.file_meta.TransferSyntaxUID
    if not syntax.is_encapsulated:
        return
    frame = pydicom.encaps.get_frame(one.PixelData, 0, number_of_frames=1)
    if syntax == pydicom.uid.RLELossless:
        most = 4 * size[0] * size[1] * 2 + 2**16  # twice 32 bits for each pixel
        if len(frame) > most:
            raise ValueError(f'expected at most {most} bytes of run lengths, got {len(frame)}')
        return
    try:
        with Image.open(io.BytesIO(frame)) as image:
            found = image.size[::-1]
    except OSError:  # not a format of Pillow, which would not decode it
        return
    if found != tuple(size):
        raise ValueError(f'expected a compressed image of {tuple(size)} pixels, got {found}')
