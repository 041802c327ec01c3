"""Storing of a case; see also ``tests/datasets/converters/test_nnunet.py``."""

import errno
import re

import nibabel
import numpy as np
import pytest

from mmkdml.datasets.volumes import intensity, read_case, store, writing
from mmkdml.datasets.volumes.nifti import read_header
from mmkdml.datasets.volumes.writing import SourceCase, common_type, store_case

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(-900, 900, (2, 6, 5, 4)).astype(np.int16)
LABEL = RANDOM.integers(0, 3, (6, 5, 4)).astype(np.uint8)  # 2 is ignored


@pytest.fixture
def save(tmp_path):
    def save(name, voxels, slope=None):
        (tmp_path / 'source').mkdir(exist_ok=True)
        path = tmp_path / 'source' / f'{name}.nii'
        image = nibabel.Nifti1Image(voxels, np.diag([1.0, 2, 3, 1]), dtype=voxels.dtype)
        image.header.set_slope_inter(slope, slope and 0)
        nibabel.save(image, path)
        return read_header(path)

    return save


@pytest.fixture
def convert(tmp_path, save):
    """Function that stores a case of two channels."""
    source = SourceCase('a', (save('a_0', IMAGES[0]), save('a_1', IMAGES[1])), save('a', LABEL))
    (tmp_path / 'out').mkdir()

    def convert(replace=False, axis=2):
        return store_case(source, tmp_path / 'out', axis, ('CT', 'T1'), 2, 2, replace)

    return convert


def files_in(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize('name', ['a.npy', 'a_label.npy', 'a.json'])
@pytest.mark.parametrize('kept', [0, -7])
def test_damaged_files_are_stored_again(tmp_path, convert, name, kept):
    convert()
    expected = files_in(tmp_path / 'out')
    path = tmp_path / 'out' / name
    path.write_bytes(path.read_bytes()[:kept])
    convert()
    assert files_in(tmp_path / 'out') == expected
    with pytest.raises(FileExistsError, match='contains a from other files or settings'):
        convert(axis=0)
    assert files_in(tmp_path / 'out') == expected
    assert convert(replace=True, axis=0).axes == [0, 2, 1]


def test_full_disk_is_an_error_that_leaves_nothing(tmp_path, convert, monkeypatch):
    """Without reserved space, writing to the mapped file would kill the process."""

    def reserve(file, size):
        assert size >= IMAGES.nbytes
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(writing, 'reserve', reserve)
    with pytest.raises(OSError, match=r'No space left.*out/a.*\.npy') as caught:
        convert()
    assert caught.value.errno == errno.ENOSPC
    assert not list((tmp_path / 'out').iterdir())


def test_case_whose_description_is_missing_is_not_stored(tmp_path, convert, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(writing, 'write_atomically', lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert()
    with pytest.raises(FileNotFoundError):
        read_case(tmp_path / 'out', 'a')
    assert convert() == read_case(tmp_path / 'out', 'a')


@pytest.mark.parametrize('most', [7, 10**6])
def test_foreground_of_ct_is_sampled_at_equal_steps(convert, monkeypatch, most):
    """Ignored voxels are no foreground; blocks of one slice."""
    monkeypatch.setattr(intensity, '_VOXELS', most)
    monkeypatch.setattr(store, '_BLOCK', 1)
    case = convert()
    values = IMAGES[0].transpose(2, 1, 0)[LABEL.transpose(2, 1, 0) == 1].astype(float)
    values = values[:: -(-len(values) // most)]
    found, none = case.foreground
    assert none is None
    np.testing.assert_allclose((found['mean'], found['std']), (values.mean(), values.std()))
    np.testing.assert_allclose(
        found['quantiles'], np.quantile(values, np.linspace(0, 1, 1001)), rtol=1e-6
    )


def test_type_represents_all_values(save):
    types = [
        ((np.uint8,), 'uint8'),
        ((np.int8,), 'int16'),
        ((np.dtype('>i2'), np.uint8), 'int16'),
        ((np.int16, np.uint16), 'float32'),
        ((np.int32,), 'float32'),
        ((np.float64,), 'float32'),
    ]
    for kinds, expected in types:
        files = [save(f'x{n}', np.ones((2, 2, 2), kind)) for n, kind in enumerate(kinds)]
        found = common_type(files)
        assert (found, found.isnative) == (np.dtype(expected), True)
    assert common_type([save('x', np.ones((2, 2, 2), np.uint8), slope=0.5)]) == np.float32


def test_unknown_labels_are_named(tmp_path, save):
    case = SourceCase('a', (save('i', IMAGES[0]),), save('l', LABEL))
    match = rf'{re.escape(str(case.label.path))}: expected the labels 0 to 1 .* got 2 in \d+ voxels'
    with pytest.raises(ValueError, match=match):
        store_case(case, tmp_path, 2, ('T1',), 2)
    assert not list(tmp_path.glob('*.*'))
