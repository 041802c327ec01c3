"""Volumes and masks against the orientations and grids of nibabel."""

import gzip
import sys
from itertools import permutations, product

import numpy as np
import pytest

from mmkdml.apis.prediction.nifti import PLANES, read_nifti, write_mask
from mmkdml.apis.prediction.volume import Volume

nibabel = pytest.importorskip('nibabel')

# i goes to the patient's front, j to the feet, k to the right: no axis is as displayed.
AFFINE = np.array([[0, 0, -2.0, 30], [1.5, 0, 0, -20], [0, -3.0, 0, 10], [0, 0, 0, 1]])
LPS = np.diag([-1, -1, 1, 1])
SPACING = np.array([1.5, 2.0, 3.0])
# All 48 orientations of a file's axes along the patient's axes.
ORIENTATIONS = [
    np.eye(3)[list(order)] * signs
    for order in permutations(range(3))
    for signs in product((1, -1), repeat=3)
]
OBLIQUE = np.linalg.qr(np.eye(3) + 0.3 * np.random.default_rng(0).normal(size=(3, 3)))[0]
OBLIQUE = OBLIQUE * np.sign(np.diag(OBLIQUE))


def write_nifti(path, voxels, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def noise(shape=(3, 4, 5)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.int16)


def placed(turn):
    affine = np.eye(4)
    affine[:3] = np.column_stack([turn * SPACING, [-7, 8, 9]])
    return affine


def masked(path, plane, out):
    """Read a volume, threshold it as a network would, and write the mask."""
    volume = read_nifti(path, plane, window=(0, 255))
    write_mask((np.asarray(volume.slices) > 127).astype(np.uint8), volume, out)
    return nibabel.load(out)


@pytest.mark.parametrize('plane', PLANES)
def test_slices_follow_the_radiological_convention(tmp_path, plane):
    """Each voxel stores its own position in space."""
    for turn in (AFFINE[:3, :3], *(placed(turn)[:3, :3] for turn in ORIENTATIONS)):
        affine = np.eye(4)
        affine[:3, :3] = turn
        for axis, name in enumerate('LPS'):  # distance to the left, posterior, superior
            places = np.moveaxis(np.indices((3, 4, 5)), 0, -1) @ (LPS @ affine)[:3, :3].T
            path = write_nifti(tmp_path / 'x.nii', places[..., axis].astype(np.float32), affine)
            slices = np.asarray(read_nifti(path, plane, window=(-20, 20)).slices, int)
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
def test_mask_matches_the_volume_in_all_orientations(tmp_path, plane):
    assert len({turn.tobytes() for turn in ORIENTATIONS}) == 48
    voxels = noise()
    for turn in (*ORIENTATIONS, OBLIQUE, OBLIQUE @ ORIENTATIONS[13]):
        path = write_nifti(tmp_path / 'volume.nii', voxels, placed(turn))
        written = masked(path, plane, tmp_path / 'mask.nii')
        np.testing.assert_array_equal(np.asarray(written.dataobj), voxels > 127)
        assert written.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)


@pytest.mark.parametrize('kind', [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize(
    ('qform', 'sform'), [(0, 0), (1, 0), (0, 2), (1, 1), (2, 4)], ids=lambda code: str(code)
)
def test_mask_header_keeps_the_spatial_fields(tmp_path, kind, qform, sform):
    """qform, sform, units and scaled intensities differ from the defaults; cal_max is reset."""
    voxels = noise()
    image = kind(voxels, None)
    image.header.set_zooms(SPACING)
    image.header.set_xyzt_units('micron', 'msec')
    image.header['cal_max'] = 4000
    image.header['descrip'] = b'scanner'
    image.header.set_intent('z score')
    if sform:
        image.set_sform(placed(OBLIQUE), sform)
    if qform:
        image.set_qform(placed(ORIENTATIONS[11]), qform)
    image.header.set_slope_inter(2, -100)
    nibabel.save(image, tmp_path / 'volume.nii.gz')
    image = nibabel.load(tmp_path / 'volume.nii.gz')
    volume = read_nifti(tmp_path / 'volume.nii.gz', 'sagittal', window=(-100, 410))
    write_mask((np.asarray(volume.slices) > 127).astype(np.uint8), volume, tmp_path / 'mask.nii.gz')
    mask = nibabel.load(tmp_path / 'mask.nii.gz')
    assert type(mask) is kind
    np.testing.assert_array_equal(np.asarray(mask.dataobj), np.asarray(image.dataobj) > 155)
    assert (mask.header['qform_code'], mask.header['sform_code']) == (qform, sform)
    for key in (
        *('dim', 'pixdim', 'xyzt_units', 'descrip', 'srow_x', 'srow_y', 'srow_z'),
        *('quatern_b', 'quatern_c', 'quatern_d', 'qoffset_x', 'qoffset_y', 'qoffset_z'),
    ):
        np.testing.assert_array_equal(mask.header[key], image.header[key], err_msg=key)
    assert (mask.header['cal_min'], mask.header['cal_max']) == (0, 0)
    assert mask.header.get_intent()[0] == 'label'
    assert image.header['cal_max'] == 4000
    assert volume.header['cal_max'] == 4000  # the volume's header is unchanged


def test_trailing_dimensions_of_size_one(tmp_path):
    voxels = noise()
    path = write_nifti(tmp_path / 'x.nii', voxels[..., None])
    written = masked(path, 'coronal', tmp_path / 'mask.nii')
    np.testing.assert_array_equal(np.asarray(written.dataobj), voxels > 127)


def test_window(tmp_path):
    voxels = np.arange(1001, dtype=np.float32).reshape(7, 11, 13)
    path = write_nifti(tmp_path / 'x.nii', voxels, np.eye(4))
    slices = np.asarray(read_nifti(path, window=(100, 355)).slices)
    assert np.array_equal(np.unique(slices), np.arange(256))
    slices = np.asarray(read_nifti(path).slices)
    assert (slices.min(), slices.max()) == (0, 255)
    assert (slices == 0).sum() == 7  # 0.5 % of 1001, and values that round to 0
    flat = write_nifti(tmp_path / 'flat.nii', voxels * 0 + 5)
    assert not np.asarray(read_nifti(flat).slices).any()
    with pytest.raises(ValueError, match='window: .* got 5 and 5'):
        read_nifti(path, window=(5, 5))


@pytest.mark.parametrize(
    ('voxels', 'message'),
    [
        (np.zeros((3, 4, 5, 2)), 'expected 1 channel, as the network, got 2 in the fourth'),
        (np.zeros((3, 4, 5, 1, 2)), r'three dimensions.* got shape \(3, 4, 5, 1, 2\)'),
        (np.zeros((3, 0, 5)), r'expected a volume .* got shape \(3, 0, 5\)'),
        (np.zeros(3), r'got shape \(3,\)'),
        (np.full((3, 4, 5), np.nan), 'expected finite intensities, got only NaN'),
        (np.full((3, 4, 5), 1e300), 'expected .* float32, got larger ones'),
        (np.full((3, 4, 5), np.inf), 'expected finite voxels, got 60 .*infinite'),
        (np.zeros((3, 4, 5), np.complex64), 'one real number per voxel, got complex64'),
        (np.zeros((3, 4, 5), [(k, 'u1') for k in 'RGB']), 'one real number per voxel, got '),
    ],
)
def test_unsupported_voxels_raise(tmp_path, voxels, message):
    with pytest.raises(ValueError, match=f'x.nii: .*{message}'):
        read_nifti(write_nifti(tmp_path / 'x.nii', voxels))


@pytest.mark.parametrize('affine', [np.diag([0, 1, 1, 1.0]), np.full((4, 4), np.nan)])
def test_invalid_affine_raises(tmp_path, affine):
    image = nibabel.Nifti1Image(noise(), np.eye(4))
    for row, values in zip('xyz', affine, strict=False):
        image.header[f'srow_{row}'] = values
    path = tmp_path / 'x.nii'
    with path.open('wb') as file:  # nibabel refuses to write it
        image.header.write_to(file)
        file.write(b'\0' * (4 + 2 * 60))
    with pytest.raises(ValueError, match='x.nii: expected .*affine, got'):
        read_nifti(path)


def test_unreadable_files_and_invalid_arguments_raise(tmp_path):
    path = write_nifti(tmp_path / 'good.nii', noise((30, 40, 50)))
    content = path.read_bytes()
    packed = gzip.compress(content)
    files = {
        'no.nii': b'nothing',
        'empty.nii.gz': b'',
        'cut.nii': content[:-100],
        'cut.nii.gz': packed[: len(packed) // 2],
        'plain.nii.gz': content,
        'header.nii': content[:200],
    }
    for name, damaged in files.items():
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(ValueError, match=f'{name}: ') as refused:
            read_nifti(tmp_path / name)
        assert '\n' not in str(refused.value)
    with pytest.raises(ValueError, match='plane: .*axial, coronal, sagittal, got .x.'):
        read_nifti(path, 'x')
    volume = read_nifti(path)
    with pytest.raises(ValueError, match=r'masks: .*\(40, 30, 50\), .*got \(30, 50\)'):
        write_mask(volume.slices[0], volume, tmp_path / 'mask.nii')


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_header_of_a_huge_volume_raises(tmp_path, suffix):
    header = nibabel.Nifti1Header()
    header.set_data_shape((3000, 3000, 3000))
    with (gzip.open if suffix == '.nii.gz' else open)(tmp_path / f'x{suffix}', 'wb') as file:
        header.write_to(file)
    with pytest.raises(ValueError, match='27000 megavoxels .* are more than 500'):
        read_nifti(tmp_path / f'x{suffix}', max_voxels=500_000_000)
    small = write_nifti(tmp_path / 'small.nii', noise())
    assert read_nifti(small, max_voxels=60).slices.shape == (4, 3, 5)
    with pytest.raises(ValueError, match='small.nii: 0 megavoxels'):
        read_nifti(small, max_voxels=59)


def test_missing_package_raises(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'nibabel', None)
    message = r"nibabel is not installed.* pip install 'mmkdml\[medical"
    with pytest.raises(ValueError, match=message):
        read_nifti('x.nii')
    volume = Volume(np.zeros((1, 2, 3), np.uint8), np.eye(4), np.eye(3)[:, :2])
    with pytest.raises(ValueError, match=message):
        write_mask(volume.slices, volume, tmp_path / 'x.nii')


@pytest.mark.parametrize(
    ('plane', 'axes'), [('axial', 'AL'), ('coronal', 'SL'), ('sagittal', 'SA')]
)
def test_spacing_is_that_of_rows_and_columns(tmp_path, plane, axes):
    """The height and width of a pixel are distances along the displayed axes."""
    for turn in ORIENTATIONS[::7]:
        along = dict(zip('LAS', np.abs(turn) @ SPACING, strict=True))
        volume = read_nifti(write_nifti(tmp_path / 'x.nii', noise(), placed(turn)), plane)
        assert volume.spacing == pytest.approx([along[one] for one in axes])


def test_unknown_spacing(tmp_path):
    image = nibabel.Nifti1Image(noise(), np.eye(4))
    for unit, spacing in (('mm', (1, 1)), ('unknown', None), ('micron', None)):
        image.header.set_xyzt_units(unit)
        nibabel.save(image, tmp_path / 'x.nii')
        assert read_nifti(tmp_path / 'x.nii').spacing == spacing
