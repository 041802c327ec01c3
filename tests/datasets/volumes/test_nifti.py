import gzip
import re

import nibabel
import numpy as np
import pytest

from mmkdml.datasets.volumes import nifti
from mmkdml.datasets.volumes.nifti import grid_difference, read_header

RANDOM = np.random.default_rng(0)


def save(path, voxels, affine=None, scale=None):
    image = nibabel.Nifti1Image(voxels, np.eye(4) if affine is None else affine, dtype=voxels.dtype)
    if scale is not None:
        image.header.set_slope_inter(*scale)
    nibabel.save(image, path)
    return path


def read(path):
    """Join the slabs of a file to channels first."""
    header = read_header(path)
    shape = (*header.shape, 1)[:4]
    voxels = np.empty((shape[3], *shape[:3]))
    for channel, start, slab in header.slabs():
        voxels[channel, :, :, start : start + slab.shape[2]] = slab
    return voxels


@pytest.mark.parametrize('name', ['a.nii', 'a.nii.gz'])
@pytest.mark.parametrize('dtype', ['uint8', 'int16', 'float32', 'float64', '>i2'])
def test_slabs_are_the_voxels_as_nibabel_reads_them(tmp_path, monkeypatch, name, dtype):
    monkeypatch.setattr(nifti, '_SLAB', 100)  # several slabs
    voxels = RANDOM.integers(0, 99, (5, 4, 7, 2)).astype(dtype)
    path = save(tmp_path / name, voxels)
    expected = nibabel.load(path).get_fdata().transpose(3, 0, 1, 2)
    assert (read(path) == expected).all()


def test_scaled_values_are_those_of_nibabel(tmp_path):
    path = tmp_path / 'a.nii.gz'
    image = nibabel.Nifti1Image(RANDOM.normal(size=(4, 4, 4)), np.eye(4))
    image.set_data_dtype(np.int16)  # nibabel chooses slope and intercept
    nibabel.save(image, path)
    header = read_header(path)
    assert header.is_scaled
    np.testing.assert_allclose(read(path)[0], nibabel.load(path).get_fdata(), rtol=1e-12)


@pytest.mark.parametrize(
    ('shape', 'match'),
    [((4, 5), r'2-D image.*folders'), ((2, 2, 2, 2, 2), r'three dimensions'), ((4, 0, 3), 'shape')],
)
def test_other_shapes_are_refused(tmp_path, shape, match):
    with pytest.raises(ValueError, match=rf'a\.nii: .*{match}|{match}.*a\.nii'):
        read_header(save(tmp_path / 'a.nii', np.zeros(shape, np.uint8)))


def test_other_types_and_affines_are_refused(tmp_path):
    colors = np.zeros((2, 2, 2), [('R', 'u1'), ('G', 'u1'), ('B', 'u1')])
    with pytest.raises(ValueError, match='one real number per voxel'):
        read_header(save(tmp_path / 'a.nii', colors))
    flat = np.diag([1.0, 1.0, 0.0, 1.0])
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
    image.header.set_sform(flat, 1)
    nibabel.save(image, tmp_path / 'b.nii')
    with pytest.raises(ValueError, match=r'b\.nii: expected a finite, invertible affine'):
        read_header(tmp_path / 'b.nii')


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e300])
def test_values_without_meaning_are_refused(tmp_path, value):
    voxels = np.zeros((2, 2, 2))
    voxels[1, 1, 1] = value
    with pytest.raises(ValueError, match=r'a\.nii: expected (finite voxels|voxels in the range)'):
        read(save(tmp_path / 'a.nii', voxels))


def test_integers_that_float32_rounds_are_refused(tmp_path):
    assert read(save(tmp_path / 'a.nii', np.full((2, 2, 2), 2**24, np.int32))).max() == 2**24
    with pytest.raises(ValueError, match='got 16777217'):
        read(save(tmp_path / 'a.nii', np.full((2, 2, 2), 2**24 + 1, np.int32)))


def test_damaged_files_are_one_line_each(tmp_path):
    voxels = RANDOM.integers(0, 999, (20, 20, 20)).astype(np.int16)
    intact = save(tmp_path / 'a.nii.gz', voxels).read_bytes()
    text = gzip.decompress(intact)
    damaged = {
        'truncated': intact[: len(intact) // 2],
        'checksum': intact[:-8] + bytes(4) + intact[-4:],
        'short': gzip.compress(text[:-40]),
        'empty': b'',
        'other': b'no volume',
        'cut': text[:100],
    }
    for name, content in damaged.items():
        path = tmp_path / f'{name}.nii.gz'
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
            read(path)
        assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match='missing.nii: no such file'):
        read_header(tmp_path / 'missing.nii')


@pytest.mark.parametrize('suffix', ['.nii', '.nii.gz'])
def test_header_of_more_voxels_than_the_file_has_is_refused(tmp_path, suffix):
    path = save(tmp_path / f'a{suffix}', np.zeros((2, 2, 2), np.uint8))
    content = path.read_bytes() if suffix == '.nii' else gzip.decompress(path.read_bytes())
    header = nibabel.Nifti1Header(content[:348])
    header.set_data_shape((32767, 32767, 32767))
    content = header.binaryblock + content[348:]
    path.write_bytes(content if suffix == '.nii' else gzip.compress(content))
    with pytest.raises(ValueError, match=r'truncated: expected 3518\d* bytes for shape'):
        read_header(path)


def test_negative_sizes_are_refused(tmp_path):
    path = save(tmp_path / 'a.nii', np.zeros((2, 2, 2), np.uint8))
    content = path.read_bytes()
    sizes = np.array([3, -2, -2, 2], '<i2').tobytes()
    path.write_bytes(content[:40] + sizes + content[48:])
    with pytest.raises(ValueError, match=r'a\.nii: .*\(-2, -2, 2\)'):
        read_header(path)


def test_orientation_and_unit_are_those_of_the_file(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.diag([-1.0, 1, -2, 1]))
    image.header.set_xyzt_units('micron')
    nibabel.save(image, tmp_path / 'a.nii')
    header = read_header(tmp_path / 'a.nii')
    assert (header.orientation, header.unit) == ('LAI', 'micron')


def test_grids_differ_in_shape_spacing_or_position(tmp_path):
    oblique = nibabel.affines.from_matvec(
        nibabel.eulerangles.euler2mat(0.3, 0.2, 0.1) @ np.diag([0.7, 0.7, 5]), [9, 8, 7]
    )
    voxels = np.zeros((30, 20, 10), np.uint8)
    first = read_header(save(tmp_path / 'a.nii', voxels, oblique))
    np.testing.assert_allclose(first.spacing, [0.7, 0.7, 5], rtol=1e-6)
    rounded, moved, wider = oblique.copy(), oblique.copy(), oblique.copy()
    rounded[:3] += 1e-4
    moved[0, 3] += 1
    wider[:3, 0] *= 1.01
    cases = [
        (voxels, rounded, '^$'),
        (voxels, moved, 'corners by up to 1 mm'),
        (voxels, wider, r'spacing \(0\.707, 0\.7, 5\) instead of \(0\.7, 0\.7, 5\)'),
        (voxels[1:], oblique, r'shape \(29, 20, 10\) instead of \(30, 20, 10\)'),
    ]
    for array, affine, match in cases:
        other = read_header(save(tmp_path / 'b.nii', array, affine))
        assert re.search(match, grid_difference(first, other))
