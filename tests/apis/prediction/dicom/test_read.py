"""DICOM series against the standard's equation, pydicom, nibabel and highdicom."""

import sys

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom import read_dicom
from mmkdml.apis.prediction.nifti import write_mask

nibabel = pytest.importorskip('nibabel')
pydicom = pytest.importorskip('pydicom')
nicom = pytest.importorskip('nibabel.nicom.dicomwrappers')

LPS = np.array([-1, -1, 1])
# Directions along a row and along a column: the three planes, a rotation and two oblique ones.
TURNED = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
DIRECTIONS = {
    'axial': [1, 0, 0, 0, 1, 0],
    'coronal': [1, 0, 0, 0, 0, -1],
    'sagittal': [0, 1, 0, 0, 0, -1],
    'upside down': [-1, 0, 0, 0, -1, 0],
    'oblique': [*TURNED[0], *TURNED[1]],
    'mirrored': [*TURNED[1], *TURNED[0]],
}


@pytest.fixture
def series(write_slice, tmp_path):
    """Write four slices, 4 mm apart, whose names are not in spatial order."""

    def make(**changes):
        pixels = np.random.default_rng(1).integers(-50, 200, (4, 5, 6))
        files = [
            write_slice(tmp_path / name, pixels[index], (10 - 4 * index, 7, 20), **changes)
            for index, name in zip((2, 0, 3, 1), 'abcd', strict=True)
        ]
        return pixels, files

    return make


def positions(directions, tilt=0.0, start=(10, 7, 20), number=4, distance=2.5):
    """Return positions of slices along their normal, sheared along the columns by ``tilt``."""
    rows, columns = np.reshape(np.array(directions, dtype=float), (2, 3))
    step = distance * np.cross(rows, columns) + tilt * columns
    return [np.array(start) + index * step for index in range(number)]


@pytest.mark.parametrize('tilt', [0.0, 0.7])
@pytest.mark.parametrize('name', DIRECTIONS)
def test_voxel_positions_follow_the_standard(write_slice, tmp_path, name, tilt):
    """Each pixel stores its own position by PS3.3 C.7.6.2.1.1; the affine must reproduce it."""
    directions = DIRECTIONS[name]
    rows, columns = np.reshape(np.array(directions, dtype=float), (2, 3))
    row, column = np.indices((5, 6))
    for axis in range(3):
        for number, corner in enumerate(positions(directions, tilt)):
            # PixelSpacing is the spacing between rows, then between columns.
            place = corner + column[..., None] * 2 * rows + row[..., None] * 3 * columns
            write_slice(
                tmp_path / f'{axis}{(7 * number + 2) % 4}',
                np.round(100 * place[..., axis]),
                corner,
                ImageOrientationPatient=directions,
                SeriesInstanceUID=f'1.{axis}',
                RescaleSlope=1,
                RescaleIntercept=0,
            )
        files = sorted(tmp_path.glob(f'{axis}*'))
        volume = read_dicom(files, window=(-10000, 10000))
        slices, down, across = np.indices(volume.slices.shape)
        ras = np.stack([across, down, slices, np.ones_like(slices)], axis=-1) @ volume.affine.T
        stored = volume.slices / 255 * 200 - 100  # millimeters, quantized to 8 bits
        np.testing.assert_allclose(stored, (ras[..., :3] * LPS)[..., axis], atol=0.5)
        mask = (volume.slices > 127).astype(np.uint8)
        write_mask(mask, volume, tmp_path / 'mask.nii.gz')
        written = nibabel.load(tmp_path / 'mask.nii.gz')
        np.testing.assert_allclose(written.affine, volume.affine, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(written.dataobj), mask.transpose(2, 1, 0))
        assert written.header['sform_code'] == 1  # of the scanner
        assert written.header.get_xyzt_units()[0] == 'mm'


def nibabel_affine(path):
    """Convert nibabel's affine from (row, column, reversed slice) to LPS+ to our convention."""
    affine = nicom.wrapper_from_file(path).affine[:, [1, 0, 2, 3]]
    return np.diag([*LPS, 1]) @ affine @ np.diag([1, 1, -1, 1])


@pytest.mark.parametrize('name', DIRECTIONS)
def test_affine_of_a_single_slice_equals_nibabels(write_slice, tmp_path, name):
    path = write_slice(
        tmp_path / 'x', np.zeros((5, 6)), (10, 7, 20), ImageOrientationPatient=DIRECTIONS[name]
    )
    affine = read_dicom([path]).affine
    np.testing.assert_allclose(affine, nibabel_affine(path), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2, 3, 5])


@pytest.mark.parametrize('name', DIRECTIONS)
def test_series_equals_highdicoms_volume(write_slice, tmp_path, name):
    """highdicom sorts along the opposite normal and does not support tilted gantries."""
    highdicom = pytest.importorskip('highdicom')
    pixels = np.random.default_rng(1).integers(0, 200, (4, 5, 6))
    geometry = dict(ImageOrientationPatient=DIRECTIONS[name], FrameOfReferenceUID='1.2.9')
    files = [
        write_slice(tmp_path / f'{7 * number % 4}', pixels[number], position, **geometry)
        for number, position in enumerate(positions(DIRECTIONS[name]))
    ]
    volume = read_dicom(files[::-1], window=(-100, 155))
    datasets = [pydicom.dcmread(path) for path in files]
    expected = highdicom.get_volume_from_series(datasets).flip_spatial(0)
    np.testing.assert_allclose(
        volume.affine, expected.get_affine('RAS')[:, [2, 1, 0, 3]], atol=1e-5
    )
    np.testing.assert_array_equal(volume.slices, (expected.array + 100).clip(0, 255))


@pytest.mark.parametrize('name', ['CT_small', 'MR_small', 'MR_small_RLE', 'MR_small_bigendian'])
def test_slices_of_real_scanners_in_several_encodings(name):
    path = pydicom.data.get_testdata_file(f'{name}.dcm', download=False)
    volume = read_dicom([path], window=(0, 2000))
    np.testing.assert_allclose(volume.affine, nibabel_affine(path), atol=1e-5)
    one = pydicom.dcmread(path)
    values = one.pixel_array * float(one.get('RescaleSlope', 1))
    values = values + float(one.get('RescaleIntercept', 0))
    np.testing.assert_allclose(volume.slices[0], (values / 2000).clip(0, 1) * 255, atol=0.51)


def test_slices_are_sorted_by_position(series):
    """The normal points to the patient's right (-x in LPS), as the slices' numbers here do."""
    pixels, files = series()
    volume = read_dicom(files, window=(-200, 310))
    expected = np.round((2.0 * pixels - 100 + 200) / 2).clip(0, 255)
    np.testing.assert_allclose(volume.slices, expected, atol=1)
    for order in (files[::-1], sorted(files)):
        np.testing.assert_array_equal(read_dicom(order, window=(-200, 310)).slices, volume.slices)


def test_slices_with_different_rescale_slopes(write_slice, tmp_path):
    """PET series have a slope for each slice."""
    files = [
        write_slice(tmp_path / str(slope), np.full((5, 6), 20), (-slope, 0, 0), RescaleSlope=slope)
        for slope in (1, 2, 3)
    ]
    slices = read_dicom(files, window=(-100, 155)).slices
    assert slices[:, 0, 0].tolist() == [20, 40, 60]


def test_window_of_a_series_equals_pydicoms(write_slice, series):
    """It is used if all slices agree, and inverted for MONOCHROME1."""
    window = dict(WindowCenter=[60, 1], WindowWidth=[180, 2])
    pixels, files = series(**window)
    windowed = read_dicom(files).slices
    of_pydicom = [
        pydicom.pixels.apply_voi_lut(2.0 * pixels[index] - 100, pydicom.dcmread(file))
        for index, file in zip((2, 0, 3, 1), files, strict=True)
    ]
    for index, values in zip((2, 0, 3, 1), of_pydicom, strict=True):
        scaled = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(windowed[index], 255 * scaled, atol=0.51)
    _, files = series(**window, PhotometricInterpretation='MONOCHROME1')
    np.testing.assert_array_equal(read_dicom(files).slices, 255 - windowed)
    without = read_dicom(series()[1]).slices
    write_slice(files[0], pixels[2], (2, 7, 20), WindowCenter=0, WindowWidth=9)
    for index, name in zip((0, 3, 1), files[1:], strict=True):
        write_slice(name, pixels[index], (10 - 4 * index, 7, 20), **window)
    np.testing.assert_array_equal(read_dicom(files).slices, without)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(SeriesInstanceUID='1.2.4'), 'c: SeriesInstanceUID: .*1.2.3, as in .*a, got 1.2.4'),
        (dict(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), 'c: ImageOrientationP.* as in .*a'),
        (dict(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), 'c: ImageOrientationP.*orthogonal'),
        (dict(ImageOrientationPatient=[0] * 6), 'c: ImageOrientationPatient: .*unit'),
        (dict(ImageOrientationPatient=[1, 0]), r'c: .*expected 6 .*got .*1.*0'),
        (dict(PixelSpacing=[3, 2.5]), r'c: PixelSpacing: expected \[3. 2.\], as in .*a, got'),
        (dict(PixelSpacing=[0, 2]), 'c: PixelSpacing: expected positive .* got .0. 2'),
        (dict(PixelSpacing=''), 'c: PixelSpacing: expected 2 .* got None'),
        (dict(ImagePositionPatient=None), 'c: ImagePositionPatient: expected 3 .* got None'),
        (dict(PhotometricInterpretation='PALETTE COLOR'), 'c: expected gray slices .*PALETTE'),
        (dict(PhotometricInterpretation='MONOCHROME1'), 'c: Photom.* expected MONOCHROME2, as'),
        (dict(NumberOfFrames=2), '0 to 4 mm: c frame 1 and c frame 2 are at the same'),
        (dict(Rows=None), 'c: expected gray slices .* None x 6 pixels'),
        (dict(Rows=4), 'c: Rows: expected 5, as in .*a, got 4'),
        (
            dict(ImagePositionPatient=[-9, 7, 20]),
            'evenly spaced .* of 4 to 11 mm: a and c are furthest',
        ),
        (
            dict(ImagePositionPatient=[2, 7, 20]),
            'evenly spaced .* of 0 to 4 mm: a and c are at the same',
        ),
        (dict(PixelData=b'12'), 'c: unreadable DICOM'),
    ],
)
def test_inconsistent_series_raise(write_slice, series, changes, message):
    pixels, files = series()
    write_slice(files[2], pixels[3], **{'position': (-2, 7, 20), **changes})
    with pytest.raises(ValueError, match=message) as refused:
        read_dicom(files)
    assert '\n' not in str(refused.value)


def test_slices_in_one_plane_raise(write_slice, tmp_path):
    files = [write_slice(tmp_path / str(y), np.zeros((5, 6)), (0, y, 0)) for y in range(3)]
    with pytest.raises(ValueError, match='evenly spaced .* of 0 to 0 mm'):
        read_dicom(files)


def test_unreadable_and_unsupported_files_raise(series, tmp_path):
    _, files = series()
    valid = files[2].read_bytes()
    for content in (b'', b'no', valid[:-30], valid[:200]):
        files[2].write_bytes(content)
        with pytest.raises(ValueError, match=': (unreadable DICOM|expected gray slices)'):
            read_dicom(files)
    with pytest.raises(ValueError, match='at least one file'):
        read_dicom([])
    for name, message in {
        'test-SR': 'expected gray slices .* got None',
        'MR_truncated': 'unreadable DICOM',
        'examples_rgb_color': 'expected gray slices .* got RGB',
    }.items():
        path = pydicom.data.get_testdata_file(f'{name}.dcm', download=False)
        with pytest.raises(ValueError, match=f'{name}.dcm: {message}') as refused:
            read_dicom([path])
        assert '\n' not in str(refused.value)


def test_too_large_series_is_not_decoded(series, monkeypatch):
    _, files = series()
    assert read_dicom(files, max_voxels=120).slices.size == 120
    monkeypatch.setattr(pydicom.pixels, 'iter_pixels', lambda *args, **kw: pytest.fail('decoded'))
    with pytest.raises(ValueError, match=r'megavoxels \(4, 5, 6\) are more than 0.000119'):
        read_dicom(files, max_voxels=119)


@pytest.mark.parametrize('package', ['nibabel', 'pydicom'])
def test_missing_package_raises_before_prediction(package, monkeypatch):
    """nibabel is only needed to write the masks."""
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"{package} is not installed.* pip install 'mmkdml\[medical"
    with pytest.raises(ValueError, match=message):
        read_dicom(['x'])


@pytest.mark.parametrize('inverse', [False, True])
def test_enhanced_file_equals_highdicoms_volume_and_the_series(
    write_enhanced, write_slice, frames, tmp_path, inverse
):
    """The frames are in no spatial order and have slopes of their own."""
    highdicom = pytest.importorskip('highdicom')
    order, slopes = [3, 0, 4, 1, 2], [1, 0.5, 1, 2, 1.5]
    kind = f'MONOCHROME{1 if inverse else 2}'
    path = write_enhanced(tmp_path / 'x', frames, order, slopes, PhotometricInterpretation=kind)
    volume = read_dicom([path])  # the window of the file: -100 to 155
    values = np.stack([slopes[i] * frames[i] - 100.0 for i in np.argsort(order)])
    expected = np.round((values + 100).clip(0, 255))
    np.testing.assert_allclose(volume.slices, 255 - expected if inverse else expected, atol=1)
    image = highdicom.imread(path)
    oracle = image.get_volume(apply_presentation_lut=False)
    if oracle.get_affine('RAS')[2, 0] < 0:
        oracle = oracle.flip_spatial(0)
    np.testing.assert_allclose(volume.affine, oracle.get_affine('RAS')[:, [2, 1, 0, 3]], atol=1e-5)
    np.testing.assert_allclose(oracle.array, values, atol=1e-3)
    assert volume.frames == tuple((path, index) for index in np.argsort(order))
    files = [
        write_slice(
            tmp_path / str(i), frames[i], (10, 7, 2.5 * order[i]), RescaleSlope=slopes[i],
            ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PhotometricInterpretation=kind,
        )
        for i in range(5)
    ]  # fmt: skip
    series = read_dicom(files, window=(-100, 155))
    np.testing.assert_array_equal(series.slices, volume.slices)
    np.testing.assert_allclose(series.affine, volume.affine)


def moved(index, **changes):
    """Return a function that changes the position of a frame, or its own elements."""

    def change(one):
        group = one.PerFrameFunctionalGroupsSequence[index]
        for key, value in changes.items():
            sequence = dict(
                ImagePositionPatient='PlanePositionSequence',
                ImageOrientationPatient='PlaneOrientationSequence',
                PixelSpacing='PixelMeasuresSequence',
            )[key]
            if sequence not in group:
                setattr(group, sequence, [pydicom.Dataset()])
            setattr(group[sequence][0], key, value)

    return change


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (moved(2, ImagePositionPatient=[10, 7, 2.5]), 'x frame 2 and x frame 3 are at the same'),
        (moved(4, ImagePositionPatient=[10, 7, 12.5]), 'x frame 4 and x frame 5 are furthest'),
        (moved(1, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), 'x frame 2: ImageOrientationP'),
        (moved(1, PixelSpacing=[3, 3]), 'x frame 2: PixelSpacing: expected .3. 2.'),
    ],
)
def test_inconsistent_frames_raise(write_enhanced, frames, tmp_path, change, message):
    path = write_enhanced(tmp_path / 'x', frames, change=change)
    with pytest.raises(ValueError, match=message) as refused:
        read_dicom([path])
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('spacing', [None, [0.2, 0.1]])
def test_radiograph_is_placed_as_by_itk(write_radiograph, tmp_path, spacing):
    """ITK gives radiographs the origin 0 and the directions of LPS+ axes."""
    pixels = np.random.default_rng(0).integers(0, 4096, (7, 9))
    volume = read_dicom([write_radiograph(tmp_path / 'x', pixels, ImagerPixelSpacing=spacing)])
    assert volume.slices.shape == (1, 7, 9)
    rows, columns = spacing or (1, 1)
    np.testing.assert_allclose(volume.affine, np.diag([-columns, -rows, 1, 1]))
    assert volume.spacing == (None if spacing is None else pytest.approx((rows, columns)))
    low, high = np.percentile(pixels, (0.5, 99.5))
    expected = ((pixels - low) / (high - low)).clip(0, 1) * 255
    np.testing.assert_allclose(volume.slices[0], expected, atol=0.51)


def test_films_keep_the_order_of_their_frames(write_radiograph, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 7, 9))
    path = tmp_path / 'x'
    xa = dict(SOPClassUID=pydicom.uid.XRayAngiographicImageStorage, NumberOfFrames=3)
    write_radiograph(path, pixels[0], **xa, PixelData=pixels.astype('<u2').tobytes())
    np.testing.assert_array_equal(read_dicom([path], window=(0, 255)).slices, pixels)
    with pytest.raises(ValueError, match='y: expected one file, because .*x has no ImagePosition'):
        read_dicom([path, write_radiograph(tmp_path / 'y', pixels[0])])


@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('window', [None, (100, 800)])
def test_padding_is_background_and_does_not_count(write_radiograph, tmp_path, kind, window):
    """Half of the pixels are padding, at the white end of one and the black end of the other."""
    pixels = np.random.default_rng(0).integers(100, 900, (20, 30))
    padded = np.zeros(pixels.shape, bool)
    padded[:, :15] = True
    limits = (4090, 4095) if kind == 'MONOCHROME2' else (0, 5)
    pixels[padded] = np.random.default_rng(1).integers(*limits, padded.sum(), endpoint=True)
    changes = dict(PixelPaddingValue=limits[0], PixelPaddingRangeLimit=limits[1])
    path = write_radiograph(tmp_path / 'x', pixels, **changes, PhotometricInterpretation=kind)
    found = read_dicom([path], window=window).slices[0]
    assert (found[padded] == 0).all()
    low, high = window or np.percentile(pixels[~padded], (0.5, 99.5))
    expected = ((pixels - low) / (high - low)).clip(0, 1) * 255
    expected = 255 - expected if kind == 'MONOCHROME1' else expected
    np.testing.assert_allclose(found[~padded], expected[~padded], atol=0.51)


def test_padding_of_ct_is_a_stored_value(write_slice, tmp_path):
    """Scanners store -2000, also as 63536, before the rescaling; a constant rest is black."""
    pixels = np.random.default_rng(0).integers(-1000, 1000, (20, 30))
    pixels[:5] = -2000
    expected = None
    for value in (-2000, 63536):
        path = tmp_path / str(value)
        write_slice(path, pixels)
        one = pydicom.dcmread(path)
        one.add_new('PixelPaddingValue', 'SS' if value < 0 else 'US', value)
        one.save_as(path)
        found = read_dicom([path]).slices[0]
        low, high = np.percentile(2.0 * pixels[5:] - 100, (0.5, 99.5))
        expected = ((2.0 * pixels - 100 - low) / (high - low)).clip(0, 1) * 255
        np.testing.assert_allclose(found, expected, atol=0.51)
    one.add_new('PixelPaddingValue', 'US', [1, 2])
    one.save_as(tmp_path / 'two')
    with pytest.raises(ValueError, match='two: unreadable DICOM'):
        read_dicom([tmp_path / 'two'])
    one.PixelPaddingValue = 63536
    for constant in (-2000, 7):
        pixels[5:] = constant
        one.PixelData = pixels.astype('<i2').tobytes()
        one.save_as(path)
        assert not read_dicom([path]).slices.any()


@pytest.mark.parametrize('signed', [False, True])
def test_unused_high_bits_are_ignored(write_slice, tmp_path, signed):
    """Old scanners put overlays there; 12-bit two's complement has its sign in bit 11."""
    values = np.arange(-2048, 2048, 7) if signed else np.arange(0, 4096, 7)
    values = values[:580].reshape(10, 58)
    stored = (values & 0xFFF) | 0x5000
    path = write_slice(
        tmp_path / 'x', stored, BitsStored=12, HighBit=11, PixelRepresentation=int(signed),
        RescaleSlope=1, RescaleIntercept=0, PixelData=stored.astype('<u2').tobytes(),
    )  # fmt: skip
    low = -2048 if signed else 0
    found = read_dicom([path], window=(low, low + 4095)).slices[0]
    np.testing.assert_allclose(found, (values - low) / 4095 * 255, atol=0.51)


@pytest.mark.parametrize('key', ['RescaleSlope', 'RescaleIntercept'])
def test_rescaling_that_is_no_number_raises(write_slice, tmp_path, key):
    path = write_slice(tmp_path / 'x', np.zeros((5, 6)), **{key: float('nan')})
    with pytest.raises(ValueError, match=f'x: .*{key}: expected a finite number.* got nan'):
        read_dicom([path])
