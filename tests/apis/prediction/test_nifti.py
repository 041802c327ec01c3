"""Volumes and masks against the orientations and grids of nibabel."""

import gzip
import os
import sys
from itertools import permutations, product

import numpy as np
import pytest

from mmkdml.apis.prediction import nifti, scratch
from mmkdml.apis.prediction.nifti import PLANES, read_nifti, write_mask
from mmkdml.apis.prediction.volume import Volume, VolumeFormat
from mmkdml.datasets.volumes import read_slice
from mmkdml.datasets.volumes.nifti import read_header
from mmkdml.datasets.volumes.writing import SourceCase, store_case

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
    if suffix == '.nii':
        os.truncate(tmp_path / 'x.nii', 2**37)  # sparse
    match = {'.nii': '27000 megavoxels .* are more than 500', '.nii.gz': 'truncated: expected 1080'}
    with pytest.raises(ValueError, match=match[suffix]):
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


def raw(channels):
    return VolumeFormat((channels,), raw=True)


@pytest.mark.parametrize('kept', [0, 2**24])
def test_channels_of_files_and_of_the_fourth_dimension(tmp_path, monkeypatch, kept):
    """Kept in memory or in a file; the types of the channels differ."""
    monkeypatch.setattr(scratch, '_KEPT', kept)
    rng = np.random.default_rng(0)
    kinds = (np.uint8, np.int16, np.float32, np.float64)
    volumes = [rng.normal(0, 30, (3, 4, 5)).astype(kind) for kind in kinds]
    affine = placed(OBLIQUE)
    paths = [
        write_nifti(tmp_path / f'a_{index:04}.nii', one, affine)
        for index, one in enumerate(volumes)
    ]
    joined = write_nifti(tmp_path / 'b.nii', np.stack(volumes, -1).astype(np.float32), affine)
    volume = read_nifti(paths, 'coronal', form=raw(4))
    slices = np.asarray(volume.slices)
    assert slices.dtype == np.float32
    np.testing.assert_array_equal(read_nifti(joined, 'coronal', form=raw(4)).slices, slices)
    # Each voxel of a mask that marks its rank is at the place of its intensity.
    for channel, expected in enumerate(volumes):
        marks = (slices[..., channel] > 20).astype(np.uint8)
        write_mask(marks, volume, tmp_path / 'mask.nii')
        written = np.asarray(nibabel.load(tmp_path / 'mask.nii').dataobj)
        np.testing.assert_array_equal(written, expected.astype(np.float32) > 20)
    with_window = read_nifti(paths[:3], window=(0, 255), form=VolumeFormat((1, 3)))
    assert with_window.slices.shape == (5, 4, 3, 3)
    assert with_window.slices[0].dtype == np.uint8
    assert read_nifti(paths[0], form=VolumeFormat((1, 3))).slices.shape == (5, 4, 3)


@pytest.mark.parametrize('channels', [1, 2])
@pytest.mark.parametrize('context', [0, 2])
@pytest.mark.parametrize('axis', [None, 0, 1, 2])
def test_slices_of_networks_of_volumes_are_those_of_training(tmp_path, axis, channels, context):
    """The converter's stored volume is the oracle."""
    rng = np.random.default_rng(0)
    (tmp_path / 'stored').mkdir()
    for index in range(channels):
        voxels = rng.integers(-900, 900, (3, 4, 5)).astype(np.int16)
        write_nifti(tmp_path / f'a_{index:04}.nii.gz', voxels, placed(OBLIQUE))
    label = write_nifti(tmp_path / 'a.nii.gz', (voxels > 0).astype(np.uint8), placed(OBLIQUE))
    paths = sorted(tmp_path.glob('a_*'))
    source = SourceCase('a', tuple(map(read_header, paths)), read_header(label))
    names = ['T1'] * channels
    case = store_case(source, tmp_path / 'stored', 2 if axis is None else axis, names, classes=2)
    form = VolumeFormat((channels,), raw=True, stored=True, axis=axis, context=context)
    volume = read_nifti(paths, form=form)
    assert len(volume.slices) == case.slices == (5 if axis is None else (3, 4, 5)[axis])
    for index, one in enumerate(volume.slices):
        expected = read_slice(tmp_path / 'stored' / f'a.npy#{index}', context)
        assert one.dtype == expected.dtype
        np.testing.assert_array_equal(one, expected)
    np.testing.assert_allclose(volume.intensity, case.intensity)
    labels = np.load(tmp_path / 'stored' / 'a_label.npy')
    write_mask(labels, volume, tmp_path / 'mask.nii.gz')
    written = nibabel.load(tmp_path / 'mask.nii.gz')
    np.testing.assert_array_equal(written.dataobj, nibabel.load(label).dataobj)
    np.testing.assert_array_equal(written.affine, nibabel.load(label).affine)


def test_missing_voxels_are_zero_with_a_warning(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(nifti, 'print_log', lambda text, *args: logged.append(text))
    voxels = noise().astype(np.float32)
    voxels[0, 1, 2] = voxels[2, :, 4] = np.nan
    path = write_nifti(tmp_path / 'x.nii', voxels)
    full = write_nifti(tmp_path / 'full.nii', np.nan_to_num(voxels))
    np.testing.assert_array_equal(read_nifti(path).slices, read_nifti(full).slices)
    assert logged == [f'{path}: 5 of 60 voxels are NaN and are read as 0']


@pytest.mark.parametrize('shape', [(4, 6), (4, 6, 1), (1, 4, 6), (4, 1, 6), (4, 6, 1, 1)])
@pytest.mark.parametrize('plane', PLANES)
def test_single_slices_are_not_cut_across(tmp_path, shape, plane):
    """In any orientation and plane, and cut as volumes for training."""
    for turn in ORIENTATIONS[::5]:
        voxels = noise(shape)
        path = write_nifti(tmp_path / 'x.nii', voxels, placed(turn))
        assert sorted(read_nifti(path, plane).slices.shape) == [1, 4, 6]
        written = masked(path, plane, tmp_path / 'mask.nii')
        assert written.shape == shape[:3]
        np.testing.assert_array_equal(written.dataobj, (voxels > 127).reshape(shape[:3]))
    form = VolumeFormat((1,), raw=True, stored=True, axis=0)
    assert read_nifti(path, form=form).slices.shape == (1, 6, 4, 1)


def test_channels_on_different_grids_raise(tmp_path):
    first = write_nifti(tmp_path / 'a_0000.nii', noise())
    other = tmp_path / 'a_0001.nii'
    moved, scaled = AFFINE.copy(), AFFINE.copy()
    moved[0, 3] += 1
    scaled[:3, 0] *= 1.1
    for voxels, affine, fact in (
        (noise((3, 5, 4)), AFFINE, r'shape \(3, 5, 4\) instead of \(3, 4, 5\)'),
        (noise(), moved, 'an affine that moves its corners by up to 1 mm'),
        (noise(), scaled, r'spacing \(1.65, 3, 2\) instead of \(1.5, 3, 2\) mm'),
    ):
        write_nifti(other, voxels, affine)
        with pytest.raises(ValueError, match=rf'a_0001.nii: .* grid of a_0000.nii, got {fact}'):
            read_nifti([first, other], form=raw(2))
    moved[0, 3] = AFFINE[0, 3] + 1e-4  # rounding
    read_nifti([first, write_nifti(other, noise(), moved)], form=raw(2))
