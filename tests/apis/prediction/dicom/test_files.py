"""Decoding against the uncompressed pixels, and packages that are missing or must not be used."""

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom import read_dicom
from mmkdml.apis.prediction.dicom.files import decode

pydicom = pytest.importorskip('pydicom')
UID = pydicom.uid
SOME = pydicom.encaps.encapsulate([b'some'])
LOSSLESS = [UID.RLELossless, UID.JPEGLSLossless, UID.JPEG2000Lossless]


@pytest.mark.parametrize('syntax', LOSSLESS, ids=lambda uid: uid.keyword)
@pytest.mark.parametrize('signed', [False, True])
def test_lossless_syntaxes_equal_the_uncompressed_frames(write_enhanced, tmp_path, syntax, signed):
    """Frames are decoded in the wanted order."""
    pixels = np.random.default_rng(0).integers(-900 * signed, 1000, (3, 64, 40))
    path = write_enhanced(
        tmp_path / 'x', pixels, PixelRepresentation=int(signed), BitsStored=16, HighBit=15
    )
    one = pydicom.dcmread(path)
    one.compress(syntax, generate_instance_uid=False)
    one.save_as(tmp_path / 'compressed')
    found = list(decode(tmp_path / 'compressed', [2, 0, 1], (3, 64, 40)))
    np.testing.assert_array_equal(found, pixels[[2, 0, 1]])


@pytest.mark.parametrize(
    ('name', 'atol'),
    [('MR_small_RLE', 0), ('MR_small_jpeg_ls_lossless', 0), ('MR_small_jp2klossless', 0)],
)
def test_real_slices_equal_their_uncompressed_original(name, atol):
    found, original = (
        read_dicom([pydicom.data.get_testdata_file(f'{one}.dcm', download=False)], window=(0, 2000))
        for one in (name, 'MR_small')
    )
    np.testing.assert_allclose(found.slices, original.slices, atol=atol)


def test_jpeg_baseline_is_decoded(write_radiograph, tmp_path):
    from PIL import Image

    ramp = np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1))
    Image.fromarray(ramp).save(tmp_path / 'x.jpg', quality=100)
    data = pydicom.encaps.encapsulate([(tmp_path / 'x.jpg').read_bytes()])
    bits = dict(BitsAllocated=8, BitsStored=8, HighBit=7)
    path = write_radiograph(
        tmp_path / 'x', ramp, syntax=UID.JPEGBaseline8Bit, PixelData=data, **bits
    )
    np.testing.assert_allclose(read_dicom([path], window=(0, 255)).slices[0], ramp, atol=3)


@pytest.mark.parametrize('syntax', [UID.JPEGLosslessSV1, UID.JPEGExtended12Bit])
def test_message_names_the_package_with_another_license(write_slice, tmp_path, monkeypatch, syntax):
    available = property(lambda self: ('gdcm', 'pillow') if '51' in self.UID else ('gdcm',))
    monkeypatch.setattr(type(pydicom.pixels.get_decoder(syntax)), 'available_plugins', available)
    path = write_slice(tmp_path / 'x', np.zeros((5, 6)), syntax=syntax, PixelData=SOME)
    with pytest.raises(
        ValueError, match=r'x: .*compressed as JPEG.*pylibjpeg-libjpeg .*GPL'
    ) as one:
        read_dicom([path])
    assert '\n' not in str(one.value)


def test_message_names_the_extra(write_slice, tmp_path, monkeypatch):
    syntax = UID.JPEG2000Lossless
    decoder = type(pydicom.pixels.get_decoder(syntax))
    monkeypatch.setattr(decoder, 'available_plugins', property(lambda self: ('gdcm',)))
    path = write_slice(tmp_path / 'x', np.zeros((5, 6)), syntax=syntax, PixelData=SOME)
    with pytest.raises(ValueError, match=r"JPEG 2000 .*: pip install 'mmkdml\[medical\]'"):
        read_dicom([path])
    path = write_slice(tmp_path / 'y', np.zeros((5, 6)), syntax=UID.MPEG2MPML, PixelData=SOME)
    with pytest.raises(ValueError, match='y: .*compressed as MPEG2'):
        read_dicom([path])


@pytest.mark.parametrize('syntax', LOSSLESS, ids=lambda uid: uid.keyword)
def test_corrupt_pixels_raise_or_decode(write_enhanced, tmp_path, syntax):
    """Decoders that end the process or panic (no ``Exception``) on such pixels are not used."""
    pixels = np.random.default_rng(0).integers(0, 1000, (1, 64, 40))
    one = pydicom.dcmread(write_enhanced(tmp_path / 'x', pixels, BitsStored=16, HighBit=15))
    one.compress(syntax, generate_instance_uid=False)
    one.save_as(tmp_path / 'x')
    content = bytearray((tmp_path / 'x').read_bytes())
    start = content.rindex(b'\xe0\x7f\x10\x00') + 28
    messages = []
    for seed in range(60):
        rng, changed = np.random.default_rng(seed), bytearray(content)
        for place in rng.integers(start, len(changed), 1 + seed % 10):
            changed[place] = rng.integers(256)
        (tmp_path / 'y').write_bytes(changed)
        try:
            read_dicom([tmp_path / 'y'])
        except ValueError as error:
            messages.append(str(error))
    assert messages
    assert not any('\n' in one for one in messages)


def test_missing_pixels_raise(write_slice, tmp_path):
    path = write_slice(tmp_path / 'x', np.zeros((5, 6)), PixelData=b'')
    with pytest.raises(ValueError, match='x: unreadable DICOM .*expected pixels, got none'):
        read_dicom([path])
