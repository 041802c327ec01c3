"""Series against the standard's equation, pydicom's pixels and nibabel's own DICOM reader."""

import sys

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom_series import read_dicom
from mmkdml.apis.prediction.volumes import write_mask

nibabel = pytest.importorskip('nibabel')
pydicom = pytest.importorskip('pydicom')
nicom = pytest.importorskip('nibabel.nicom.dicomwrappers')

LPS = np.array([-1, -1, 1])
# Directions along a row and along a column: the three planes, and two that lie across them.
TURNED = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0]
DIRECTIONS = {
    'axial': [1, 0, 0, 0, 1, 0],
    'coronal': [1, 0, 0, 0, 0, -1],
    'sagittal': [0, 1, 0, 0, 0, -1],
    'upside down': [-1, 0, 0, 0, -1, 0],
    'oblique': [*TURNED[0], *TURNED[1]],
    'mirrored': [*TURNED[1], *TURNED[0]],
}


def write_slice(path, pixels, position, **changes):
    """A CT slice that lies on its side: rows go to the feet, columns to the patient's back."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
    one = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=b'\0' * 128)
    values = dict(
        SOPClassUID=meta.MediaStorageSOPClassUID,
        SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        SeriesInstanceUID='1.2.3',
        ImagePositionPatient=list(position),
        ImageOrientationPatient=DIRECTIONS['sagittal'],
        PixelSpacing=[3, 2],
        SliceThickness=5,
        Rows=pixels.shape[0],
        Columns=pixels.shape[1],
        SamplesPerPixel=1,
        PhotometricInterpretation='MONOCHROME2',
        BitsAllocated=16,
        BitsStored=16,
        HighBit=15,
        PixelRepresentation=1,
        RescaleSlope=2,
        RescaleIntercept=-100,
        PixelData=np.asarray(pixels).astype('<i2').tobytes(),
    )
    for key, value in {**values, **changes}.items():
        if value is not None:
            setattr(one, key, value)
    one.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def series(tmp_path):
    """Four slices, 4 mm apart, whose names are not in the order of their places."""

    def make(**changes):
        pixels = np.random.default_rng(1).integers(-50, 200, (4, 5, 6))
        files = [
            write_slice(tmp_path / name, pixels[index], (10 - 4 * index, 7, 20), **changes)
            for index, name in zip((2, 0, 3, 1), 'abcd', strict=True)
        ]
        return pixels, files

    return make


def positions(directions, tilt=0.0, start=(10, 7, 20), number=4, distance=2.5):
    """Corners of slices along their normal, sheared along the columns if the gantry is tilted."""
    rows, columns = np.reshape(np.array(directions, dtype=float), (2, 3))
    step = distance * np.cross(rows, columns) + tilt * columns
    return [np.array(start) + index * step for index in range(number)]


@pytest.mark.parametrize('tilt', [0.0, 0.7])
@pytest.mark.parametrize('name', DIRECTIONS)
def test_voxels_lie_where_the_standard_says(tmp_path, name, tilt):
    """Each pixel holds its own place: by the equation of PS3.3 C.7.6.2.1.1, and by the affine."""
    directions = DIRECTIONS[name]
    rows, columns = np.reshape(np.array(directions, dtype=float), (2, 3))
    row, column = np.indices((5, 6))
    for axis in range(3):
        for number, corner in enumerate(positions(directions, tilt)):
            # PixelSpacing is that of the rows, from one to the next, and then of the columns.
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
        shown = volume.slices / 255 * 200 - 100  # millimetres, to a step of grey
        np.testing.assert_allclose(shown, (ras[..., :3] * LPS)[..., axis], atol=0.5)
        mask = (volume.slices > 127).astype(np.uint8)
        write_mask(mask, volume, tmp_path / 'mask.nii.gz')
        written = nibabel.load(tmp_path / 'mask.nii.gz')
        np.testing.assert_allclose(written.affine, volume.affine, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(np.asarray(written.dataobj), mask.transpose(2, 1, 0))
        assert written.header['sform_code'] == 1  # of the scanner
        assert written.header.get_xyzt_units()[0] == 'mm'


def of_nibabel(path):
    """Its affine is from (row, column, slice), against our normal, to LPS+."""
    affine = nicom.wrapper_from_file(path).affine[:, [1, 0, 2, 3]]
    return np.diag([*LPS, 1]) @ affine @ np.diag([1, 1, -1, 1])


@pytest.mark.parametrize('name', DIRECTIONS)
def test_the_affine_is_that_of_nibabels_reader(tmp_path, name):
    """Of a slice alone, which is as thick as it says."""
    path = write_slice(
        tmp_path / 'x', np.zeros((5, 6)), (10, 7, 20), ImageOrientationPatient=DIRECTIONS[name]
    )
    affine = read_dicom([path]).affine
    np.testing.assert_allclose(affine, of_nibabel(path), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), [2, 3, 5])


@pytest.mark.parametrize('name', ['CT_small', 'MR_small', 'MR_small_RLE', 'MR_small_bigendian'])
def test_slices_of_real_scanners(name):
    """Whatever way their pixels are packed."""
    path = pydicom.data.get_testdata_file(f'{name}.dcm', download=False)
    volume = read_dicom([path], window=(0, 2000))
    np.testing.assert_allclose(volume.affine, of_nibabel(path), atol=1e-5)
    one = pydicom.dcmread(path)
    values = one.pixel_array * float(one.get('RescaleSlope', 1))
    values = values + float(one.get('RescaleIntercept', 0))
    np.testing.assert_allclose(volume.slices[0], (values / 2000).clip(0, 1) * 255, atol=0.51)


def test_a_series_is_in_the_order_of_its_places(series):
    """The normal points to the patient's right (-x in LPS), as the slices' numbers here do."""
    pixels, files = series()
    volume = read_dicom(files, window=(-200, 310))
    expected = np.round((2.0 * pixels - 100 + 200) / 2).clip(0, 255)
    np.testing.assert_allclose(volume.slices, expected, atol=1)
    for order in (files[::-1], sorted(files)):
        np.testing.assert_array_equal(read_dicom(order, window=(-200, 310)).slices, volume.slices)


def test_each_slice_may_have_a_scale_of_its_own(tmp_path):
    """As in PET."""
    files = [
        write_slice(tmp_path / str(slope), np.full((5, 6), 20), (-slope, 0, 0), RescaleSlope=slope)
        for slope in (1, 2, 3)
    ]
    slices = read_dicom(files, window=(-100, 155)).slices
    assert slices[:, 0, 0].tolist() == [20, 40, 60]


def test_the_window_of_a_series(series):
    """As pydicom shows it, if the slices agree; inverted where the lowest value is white."""
    window = dict(WindowCenter=[60, 1], WindowWidth=[180, 2])
    pixels, files = series(**window)
    shown = read_dicom(files).slices
    of_pydicom = [
        pydicom.pixels.apply_voi_lut(2.0 * pixels[index] - 100, pydicom.dcmread(file))
        for index, file in zip((2, 0, 3, 1), files, strict=True)
    ]
    for index, values in zip((2, 0, 3, 1), of_pydicom, strict=True):
        whole = (values - values.min()) / (values.max() - values.min())
        np.testing.assert_allclose(shown[index], 255 * whole, atol=0.51)
    _, files = series(**window, PhotometricInterpretation='MONOCHROME1')
    np.testing.assert_array_equal(read_dicom(files).slices, 255 - shown)
    without = read_dicom(series()[1]).slices
    write_slice(files[0], pixels[2], (2, 7, 20), WindowCenter=0, WindowWidth=9)
    for index, name in zip((0, 3, 1), files[1:], strict=True):
        write_slice(name, pixels[index], (10 - 4 * index, 7, 20), **window)
    np.testing.assert_array_equal(read_dicom(files).slices, without)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(SeriesInstanceUID='1.2.4'), 'c is of another series than .*a; put each'),
        (dict(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), 'c: ImageOrientationPatient differs'),
        (dict(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), 'c: .* at right angles, got'),
        (dict(ImageOrientationPatient=[0] * 6), 'c: .* two directions of length 1'),
        (dict(ImageOrientationPatient=[1, 0]), r'c: .*must be 6 numbers, .*got .*1.*0'),
        (dict(PixelSpacing=[3, 2.5]), 'c: PixelSpacing differs from that of .*a'),
        (dict(PixelSpacing=[0, 2]), 'c: PixelSpacing must be above 0'),
        (dict(PixelSpacing=''), 'c: PixelSpacing must be 2 numbers, which say where'),
        (dict(ImagePositionPatient=None), 'c: ImagePositionPatient must be 3 numbers, .* None'),
        (dict(PhotometricInterpretation='PALETTE COLOR'), 'c: expected one grey slice .*PALETTE'),
        (dict(PhotometricInterpretation='MONOCHROME1'), 'c: PhotometricInterp.*but MONOCHROME2 in'),
        (dict(NumberOfFrames=2), r'c: expected one grey slice .* in 2 frame\(s\)'),
        (dict(Rows=None), 'c: expected one grey slice .* of None x 6 pixels'),
        (dict(Rows=4), 'c: Rows is 4, but 5 in .*a; put each kind'),
        (dict(ImagePositionPatient=[-9, 7, 20]), 'evenly spaced, but are 4 to 11 mm apart'),
        (dict(ImagePositionPatient=[2, 7, 20]), 'evenly spaced, but are 0 to 4 mm apart'),
        (dict(PixelData=b'12'), 'c: unreadable DICOM'),
    ],
)
def test_bad_series(series, changes, message):
    pixels, files = series()
    write_slice(files[2], pixels[3], **{'position': (-2, 7, 20), **changes})
    with pytest.raises(ValueError, match=message) as refused:
        read_dicom(files)
    assert '\n' not in str(refused.value)


def test_slices_on_one_plane_are_no_volume(tmp_path):
    files = [write_slice(tmp_path / str(y), np.zeros((5, 6)), (0, y, 0)) for y in range(3)]
    with pytest.raises(ValueError, match='evenly spaced, but are 0 to 0 mm apart'):
        read_dicom(files)


def test_bad_files(series, tmp_path):
    _, files = series()
    whole = files[2].read_bytes()
    for content in (b'', b'no', whole[:-30], whole[:200]):
        files[2].write_bytes(content)
        with pytest.raises(ValueError, match=': (unreadable DICOM|expected one grey slice)'):
            read_dicom(files)
    with pytest.raises(ValueError, match='at least one file'):
        read_dicom([])
    for name, message in {
        'test-SR': r'expected one grey slice \(MONOCHROME1 or 2\), got None',
        'MR_truncated': 'unreadable DICOM',
        'MR_small_jpeg_ls_lossless': 'unreadable DICOM .*missing dependencies: .*pylibjpeg',
        'rtdose': 'expected one grey slice .* in 15 frame',
        'examples_rgb_color': 'expected one grey slice .* got RGB',
    }.items():
        path = pydicom.data.get_testdata_file(f'{name}.dcm', download=False)
        with pytest.raises(ValueError, match=f'{name}.dcm: {message}') as refused:
            read_dicom([path])
        assert '\n' not in str(refused.value)


def test_a_series_that_is_too_large_is_not_decoded(series, monkeypatch):
    _, files = series()
    assert read_dicom(files, max_voxels=120).slices.size == 120
    monkeypatch.setattr(
        pydicom.Dataset, 'pixel_array', property(lambda self: pytest.fail('decoded'))
    )
    with pytest.raises(ValueError, match=r'megavoxels \(4, 5, 6\) are more than 0.000119'):
        read_dicom(files, max_voxels=119)


@pytest.mark.parametrize('package', ['nibabel', 'pydicom'])
def test_a_missing_package_is_named(package, monkeypatch):
    """Before a long prediction, which without nibabel could not be written."""
    monkeypatch.setitem(sys.modules, package, None)
    message = rf'{package}, which is not .* pip install mmkdml\[medical'
    with pytest.raises(ValueError, match=message):
        read_dicom(['x'])
