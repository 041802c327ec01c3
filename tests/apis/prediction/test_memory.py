"""Small files that declare or decompress to gigabytes raise, or are read in little memory."""

import gzip
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmkdml.apis.prediction.dicom import read_dicom
from mmkdml.apis.prediction.nifti import read_nifti

nibabel = pytest.importorskip('nibabel')
pydicom = pytest.importorskip('pydicom')

MIB = 2**20
UID = pydicom.uid
ZEROS = np.zeros((16, 16))


def in_child(call):
    """Return the result or error of a call as text, and the peak memory in MiB of its process.

    It is forked, because a process that calls exec inherits its parent's peak.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = str(call())
        except ValueError as error:
            text = f'ValueError: {error}'
        except BaseException as error:
            text = repr(error)
        os.write(writer, text.encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, 'rb') as pipe:
        text = pipe.read().decode()
    return text, os.wait4(child, 0)[2].ru_maxrss / 1024


def grown(call):
    """Return the result or error of a call, and the growth of the peak memory in MiB."""
    text, peak = in_child(call)
    return text, peak - in_child(lambda: None)[1]


def packed_zeros(number, bits, wrap=False):
    """Deflate ``number`` MiB of zeros by repeating one compressed block."""
    packer = zlib.compressobj(9, zlib.DEFLATED, bits)
    block = packer.compress(b'\0' * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(b'\0' * MIB) + packer.flush(zlib.Z_FULL_FLUSH)
    return block + again * (number - 1) + (packer.flush() if wrap else b'')


def test_deflated_slice_equals_the_uncompressed_one(write_slice, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4000, (16, 16))
    volumes = [
        read_dicom([write_slice(tmp_path / syntax, pixels, syntax=syntax)])
        for syntax in (UID.ExplicitVRLittleEndian, UID.DeflatedExplicitVRLittleEndian)
    ]
    np.testing.assert_array_equal(volumes[0].slices, volumes[1].slices)
    assert len(np.unique(volumes[0].slices)) > 100


@pytest.mark.parametrize('tag', ['pixels', 'before them'])
def test_deflated_slice_of_a_gigabyte_raises(write_slice, tmp_path, tag):
    path = write_slice(tmp_path / 'x.dcm', ZEROS, syntax=UID.DeflatedExplicitVRLittleEndian)
    valid = path.read_bytes()
    start = valid.index(b'1.2.840.10008.1.2.1.99')
    meta = 144 + struct.unpack('<I', valid[140:144])[0]
    assert start < meta
    header = zlib.decompress(valid[meta:], -15)
    header = header[: header.index(b'\xe0\x7f\x10\x00')]
    if tag == 'pixels':
        header += b'\xe0\x7f\x10\x00OW\0\0'
    else:
        header = header[: header.index(b'\x28\x00')] + b'\x19\x00\x01\x10OB\0\0'
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(header + struct.pack('<I', 1024 * MIB))
    packed += packer.flush(zlib.Z_FULL_FLUSH) + packed_zeros(1024, -15)
    path.write_bytes(valid[:meta] + packed)
    assert path.stat().st_size < 2 * MIB
    text, size = grown(lambda: read_dicom([path], max_voxels=5 * 10**8))
    assert text.startswith(f'ValueError: {path}: ')
    assert size < 100


def test_oversized_run_lengths_raise(write_slice, tmp_path):
    segment = b'\x81\x00' * (3 * MIB // 2)  # two bytes encode 128
    frame = struct.pack('<16I', 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    data = pydicom.encaps.encapsulate([frame])
    path = write_slice(tmp_path / 'x.dcm', ZEROS, syntax=UID.RLELossless, PixelData=data)
    text, size = grown(lambda: read_dicom([path]))
    assert 'expected at most 67584 bytes of run lengths, got 6291520' in text
    assert size < 100


def test_compressed_image_larger_than_its_header_raises(write_slice, tmp_path):
    Image.new('L', (9000, 9000)).save(tmp_path / 'x.jpg')
    data = pydicom.encaps.encapsulate([(tmp_path / 'x.jpg').read_bytes()])
    changes = dict(PixelData=data, BitsAllocated=8, BitsStored=8, HighBit=7)
    path = write_slice(tmp_path / 'x.dcm', ZEROS, syntax=UID.JPEGBaseline8Bit, **changes)
    text, size = grown(lambda: read_dicom([path]))
    assert 'expected a compressed image of (16, 16) pixels, got (9000, 9000)' in text
    assert size < 50


def test_jpeg_ls_image_larger_than_its_header_raises(tmp_path):
    path = pydicom.data.get_testdata_file('MR_small_jpeg_ls_lossless.dcm', download=False)
    content = Path(path).read_bytes()
    start = content.index(b'\xff\xd8\xff\xf7') + 7
    large = content[:start] + struct.pack('>HH', 60000, 50000) + content[start + 4 :]
    (tmp_path / 'x.dcm').write_bytes(large)
    with pytest.raises(ValueError, match=r'of \(64, 64\) pixels, got \(60000, 50000\)'):
        read_dicom([tmp_path / 'x.dcm'])


@pytest.mark.parametrize('change', ['element', 'rows', 'frames'])
def test_slice_that_declares_gigabytes_raises(write_slice, tmp_path, change):
    changes = dict(rows=dict(Rows=65535, Columns=65535), frames=dict(NumberOfFrames=10**9))
    path = write_slice(tmp_path / 'x.dcm', ZEROS, **changes.get(change, {}))
    if change == 'element':
        content = path.read_bytes()
        place = content.index(b'\x28\x00')
        element = b'\x19\x00\x01\x10OB\0\0' + struct.pack('<I', 0xFFFFFFF0)
        path.write_bytes(content[:place] + element + content[place:])
    text, size = grown(lambda: read_dicom([path], max_voxels=5 * 10**8, max_pixels=5 * 10**7))
    assert text.startswith('ValueError: ')
    assert size < 50


@pytest.fixture
def header():
    def make(kind, shape, dtype=np.uint8):
        made = kind()
        made.set_data_dtype(dtype)
        made.set_data_shape(shape)
        made.set_sform(np.eye(4), 1)
        made['magic'] = b'n+1' if kind is nibabel.Nifti1Header else made['magic']
        made['vox_offset'] = made.sizeof_hdr + 4
        return made

    return make


@pytest.mark.parametrize('window', [None, (0, 10)])
@pytest.mark.parametrize('shape', [(256, 512, 192), (4096, 6144, 1)])
def test_large_volume_in_a_small_file_is_read_in_chunks(
    tmp_path, monkeypatch, header, shape, window
):
    content = header(nibabel.Nifti1Header, shape)
    content['scl_slope'], content['scl_inter'] = 1.5, 4
    path = tmp_path / 'x.nii.gz'
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    start = packer.compress(content.binaryblock + b'\0' * 4 + bytes(range(8)))
    zeros = b'\0' * (24 * MIB - 8)
    path.write_bytes(start + packer.compress(zeros) + packer.flush())
    assert path.stat().st_size < 30_000
    text, size = grown(lambda: sum(map(np.sum, read_nifti(path, window=window).slices)))
    low, high = window or (4, 4)
    values = [min(1, max(0, 1.5 * one + 4 - low) / (high - low or 1)) for one in range(8)]
    zero = round(255 * min(1, (4 - low) / (high - low or 1)))
    expected = sum(round(255 * value) for value in values) if window else 0
    assert int(text) == expected + zero * (24 * MIB - 8)
    if shape[2] > 1:  # MiB; otherwise a slice is the volume, in float64 while it is scaled
        assert size < 150


@pytest.mark.parametrize('kind', ['Nifti1Header', 'Nifti2Header'])
@pytest.mark.parametrize('offset', [2**30, 2**12])
@pytest.mark.parametrize('order', ['<', '>'])
def test_header_extensions_that_declare_gigabytes_raise(tmp_path, header, kind, offset, order):
    content = header(getattr(nibabel, kind), (2, 3, 4))
    content['vox_offset'] = offset
    content = content.as_byteswapped(order)
    path = tmp_path / 'x.nii.gz'
    extension = struct.pack(f'{order}ii', 2**30, 6)
    start = gzip.compress(content.binaryblock + b'\1\0\0\0' + extension)
    path.write_bytes(start + packed_zeros(1100, 31, wrap=True))
    text, size = grown(lambda: read_nifti(path, max_voxels=5 * 10**8))
    assert 'x.nii.gz: expected a header' in text
    assert size < 50


def test_header_extensions_are_read(tmp_path):
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    image = nibabel.Nifti1Image(voxels, np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, b'a comment' * 99))
    nibabel.save(image, tmp_path / 'x.nii.gz')
    slices = np.asarray(read_nifti(tmp_path / 'x.nii.gz', window=(0, 255)).slices)
    assert sorted(slices.ravel().tolist()) == list(range(60))


@pytest.mark.parametrize('shape', [(512, 512, 300, 900), (30000, 30000, 1), (9000, 9000, 2)])
def test_too_large_volumes_are_not_read(tmp_path, header, shape):
    path = tmp_path / 'x.nii'
    path.write_bytes(header(nibabel.Nifti2Header, shape, np.float64).binaryblock + b'\0' * 4)
    text, size = grown(lambda: read_nifti(path, max_voxels=5 * 10**8, max_pixels=5 * 10**7))
    assert text.startswith(f'ValueError: {path}: ')
    assert 'unreadable' not in text
    assert size < 50
