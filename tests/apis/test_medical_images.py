"""Volumes against nibabel's and pydicom's view of space, and masks against the volume's grid."""

import sys

import numpy as np
import pytest

from mmkdml.apis.medical_images import PLANES, read_dicom, read_nifti, write_mask

nibabel = pytest.importorskip('nibabel')
pydicom = pytest.importorskip('pydicom')

# Voxel i goes to the patient's front, j down to the feet, k to the right: nothing as displayed.
AFFINE = np.array([[0, 0, -2.0, 30], [1.5, 0, 0, -20], [0, -3.0, 0, 10], [0, 0, 0, 1]])
LPS = np.diag([-1, -1, 1, 1])


def write_nifti(path, voxels, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


@pytest.mark.parametrize('plane', PLANES)
def test_slices_are_shown_as_radiologists_see_them(tmp_path, plane):
    """Each voxel's value is its own place in space, so that the slices say where they lie."""
    for axis, name in enumerate('LPS'):  # how far to the left, the back, the head
        places = np.moveaxis(np.indices((4, 5, 6)), 0, -1) @ (LPS @ AFFINE)[:3, :3].T
        path = write_nifti(tmp_path / 'x.nii.gz', places[..., axis].astype(np.float32))
        slices = read_nifti(path, plane, window=(-20, 20)).slices.astype(int)
        along = {'column': 2, 'row': 1, 'slice': 0}
        for direction, towards in zip(along, PLANES[plane], strict=True):
            step = np.diff(slices, axis=along[direction])
            if towards == name:
                assert (step > 0).all(), (plane, direction)
            elif towards == 'I' and name == 'S':
                assert (step < 0).all(), (plane, direction)
            else:
                assert (step == 0).all(), (plane, direction)


@pytest.mark.parametrize('plane', PLANES)
def test_a_mask_lies_where_its_voxels_lay(tmp_path, plane):
    voxels = np.random.default_rng(0).integers(0, 256, (4, 5, 6)).astype(np.uint8)
    path = write_nifti(tmp_path / 'volume.nii', voxels)
    volume = read_nifti(path, plane, window=(0, 255))
    masks = (volume.slices > 127).astype(np.uint8)
    write_mask(masks, volume, tmp_path / 'mask.nii.gz')
    written = nibabel.load(tmp_path / 'mask.nii.gz')
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels > 127)
    np.testing.assert_allclose(written.affine, AFFINE)
    assert written.get_data_dtype() == np.uint8
    assert nibabel.load(path).header.get_xyzt_units() == written.header.get_xyzt_units()


def test_the_window_of_a_nifti_volume(tmp_path):
    voxels = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    path = write_nifti(tmp_path / 'x.nii', voxels, np.eye(4))
    shown = read_nifti(path, window=(100, 355)).slices
    assert np.array_equal(np.unique(shown), np.arange(256))
    low, high = read_nifti(path).slices.min(), read_nifti(path).slices.max()
    assert (low, high) == (0, 255)
    assert (read_nifti(path).slices == 0).sum() == 7  # 0.5 % of 1001 and what rounds to black
    assert (read_nifti(write_nifti(tmp_path / 'flat.nii', voxels * 0 + 5)).slices == 0).all()
    with pytest.raises(ValueError, match='from a lower to a higher intensity, got 5 to 5'):
        read_nifti(path, window=(5, 5))


def test_bad_nifti(tmp_path):
    voxels = np.zeros((3, 4, 5, 2), dtype=np.float32)
    with pytest.raises(
        ValueError, match=r'four.nii: expected a volume of three dim.* \(3, 4, 5, 2'
    ):
        read_nifti(write_nifti(tmp_path / 'four.nii', voxels))
    with pytest.raises(ValueError, match='plane must be one of axial, coronal, sagittal; got .x.'):
        read_nifti(tmp_path / 'four.nii', 'x')
    with pytest.raises(ValueError, match='nan.nii: expected finite intensities'):
        read_nifti(write_nifti(tmp_path / 'nan.nii', voxels[..., 0] + np.nan))
    (tmp_path / 'no.nii').write_bytes(b'nothing')
    content = (tmp_path / 'four.nii').read_bytes()
    (tmp_path / 'cut.nii').write_bytes(content[:-100])
    for name in ('no.nii', 'cut.nii'):
        with pytest.raises(ValueError, match=f'{name}: unreadable NIfTI'):
            read_nifti(tmp_path / name)
    volume = read_nifti(write_nifti(tmp_path / 'good.nii', voxels[..., 0]))
    with pytest.raises(ValueError, match=r'shape of the slices \(4, 3, 5\), got \(3, 5\)'):
        write_mask(volume.slices[0], volume, tmp_path / 'mask.nii')


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
        ImageOrientationPatient=[0, 1, 0, 0, 0, -1],
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
        PixelData=pixels.astype('<i2').tobytes(),
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


def test_a_series_keeps_its_place(series, tmp_path):
    """The normal points to the patient's right (-x in LPS), as the slices' numbers here do."""
    pixels, files = series()
    volume = read_dicom(files, window=(-200, 310))
    expected = np.round((2.0 * pixels - 100 + 200) / 2).clip(0, 255)
    np.testing.assert_allclose(volume.slices, expected, atol=1)
    # Of row 2, column 3, slice 1, by the equation of the standard, with x and y turned round.
    place = np.array([10, 7, 20]) + 3 * 2 * np.array([0, 1, 0]) + 2 * 3 * np.array([0, 0, -1])
    place = place + 1 * np.array([-4, 0, 0])
    np.testing.assert_allclose(volume.affine @ [3, 2, 1, 1], [*(place * [-1, -1, 1]), 1])
    masks = (volume.slices > 100).astype(np.uint8)
    write_mask(masks, volume, tmp_path / 'mask.nii.gz')
    written = nibabel.load(tmp_path / 'mask.nii.gz')
    np.testing.assert_allclose(written.affine, volume.affine)
    np.testing.assert_array_equal(np.asarray(written.dataobj), masks.transpose(2, 1, 0))
    assert written.header.get_xyzt_units()[0] == 'mm'


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


def test_a_single_slice_is_as_thick_as_it_says(series):
    _, files = series()
    volume = read_dicom(files[1:2])
    np.testing.assert_allclose(np.linalg.norm(volume.affine[:3, :3], axis=0), [2, 3, 5])
    assert volume.slices.shape == (1, 5, 6)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(SeriesInstanceUID='1.2.4'), 'c is of another series than .*a; put each'),
        (dict(ImageOrientationPatient=[1, 0, 0, 0, 1, 0]), 'c: ImageOrientationPatient differs'),
        (dict(PixelSpacing=[3, 2.5]), 'c: PixelSpacing differs from that of .*a'),
        (dict(ImagePositionPatient=None), 'c: ImagePositionPatient must say where'),
        (dict(PhotometricInterpretation='PALETTE COLOR'), 'c: expected one grey slice .*PALETTE'),
        (dict(ImagePositionPatient=[-9, 7, 20]), 'evenly spaced, but are 4 to 11 mm apart'),
        (dict(ImagePositionPatient=[2, 7, 20]), 'evenly spaced, but are 0 to 4 mm apart'),
        (dict(PixelData=b'12'), 'c: unreadable DICOM'),
    ],
)
def test_bad_series(series, changes, message):
    pixels, files = series()
    write_slice(files[2], pixels[3], **{'position': (-2, 7, 20), **changes})
    with pytest.raises(ValueError, match=message):
        read_dicom(files)


def test_other_bad_series(series, tmp_path):
    pixels, files = series()
    write_slice(files[2], pixels[3][:4], (-2, 7, 20))
    with pytest.raises(ValueError, match=r'c: \(4, 6\) pixels, but .*a has \(5, 6\)'):
        read_dicom(files)
    files[2].write_bytes(b'no')
    with pytest.raises(ValueError, match='c: unreadable DICOM'):
        read_dicom(files)
    with pytest.raises(ValueError, match='at least one file'):
        read_dicom([])


@pytest.mark.parametrize('package', ['nibabel', 'pydicom'])
def test_a_missing_package_is_named(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    read = dict(nibabel=lambda: read_nifti('x.nii'), pydicom=lambda: read_dicom(['x']))[package]
    with pytest.raises(
        ValueError, match=rf'{package}, which is not .* pip install mmkdml\[medical'
    ):
        read()
