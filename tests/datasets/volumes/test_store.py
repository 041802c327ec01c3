import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from mmkdml.datasets.channels import read_picture
from mmkdml.datasets.splits import SplitRow
from mmkdml.datasets.splits.split_checks import refuse_outside
from mmkdml.datasets.volumes import (
    Case,
    case_intensity,
    read_case,
    read_slice,
    slice_axes,
    store,
    with_context,
)
from mmkdml.datasets.volumes.store import blocks, check_axis, is_slice, slice_path, volume_file

CASE = Case(
    'a', ['T1'], [2, 1, 0], np.eye(4).tolist(), [3.0, 1.0, 1.0], [4, 5, 6], [[0.0] * 4], [None],
    [1], {},
)  # fmt: skip


def test_description_is_read_as_it_was_written(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(asdict(CASE)))
    assert read_case(tmp_path, 'a') == CASE
    assert CASE.slices == 6
    assert replace(CASE, axes=[0, 2, 1]).slices == 4


def test_missing_or_damaged_description_names_its_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'a\.json.*data_root.*volumes'):
        read_case(tmp_path, 'a')
    (tmp_path / 'a.json').write_text('{"name": "a"}')
    with pytest.raises(ValueError, match=r'a\.json is damaged'):
        read_case(tmp_path, 'a')


@pytest.mark.parametrize('axis', [0, 1, 2])
def test_slices_along_an_axis_are_those_of_the_reversed_file(axis):
    """As nnU-Net, whose readers transpose (x, y, z) to (z, y, x)."""
    file = np.arange(24).reshape(2, 3, 4)
    reversed_file = np.moveaxis(file.transpose(2, 1, 0), 2 - axis, 0)
    assert (file.transpose(slice_axes(axis)) == reversed_file).all()


def test_axis_is_one_of_three():
    check_axis(None)
    with pytest.raises(ValueError, match='axis.*got 3'):
        check_axis(3)


def test_paths_of_slices():
    assert slice_path('a/b#1.npy', 12) == 'a/b#1.npy#12'
    assert is_slice('a/b#1.npy#12')
    assert not any(map(is_slice, ('a.npy', 'a#1.png', 'a.npy#x', 'a.npy#')))
    assert volume_file('a/b#1.npy#12') == 'a/b#1.npy'
    assert volume_file('a#1.png') == 'a#1.png'


@pytest.mark.parametrize('number', [0, 2, 4])
def test_neighbors_become_channels_and_the_border_is_repeated(tmp_path, number):
    volume = np.random.default_rng(0).integers(0, 99, (5, 2, 3, 4)).astype(np.uint16)
    np.save(tmp_path / 'a.npy', volume)
    found = read_slice(tmp_path / f'a.npy#{number}', context=2)
    # One slice after the other, each with both channels.
    numbers = [min(max(number + step, 0), 4) for step in (-2, -1, 0, 1, 2)]
    expected = np.concatenate([volume[one].transpose(1, 2, 0) for one in numbers], axis=2)
    assert found.shape == (3, 4, 10)
    assert found.dtype == np.uint16
    assert (found == expected).all()
    assert (with_context(volume, number, 2) == expected).all()
    found[:] = 0  # a copy: samples may be changed
    assert (np.load(tmp_path / 'a.npy') == volume).all()


def test_headers_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    loads = []
    load = np.load
    monkeypatch.setattr(np, 'load', lambda *args, **kw: (loads.append(args), load(*args, **kw))[1])
    path = tmp_path / 'a.npy'
    for shape in ((4, 1, 2, 3), (2, 1, 3, 5)):
        volume = np.random.default_rng(0).random(shape)
        path.unlink(missing_ok=True)
        np.save(path, volume)
        for number in (0, 1, 0):
            assert (read_slice(f'{path}#{number}')[..., 0] == volume[number, 0]).all()
    assert len(loads) == 2
    maps = Path('/proc/self/maps')  # mapped pages count as memory
    assert not maps.exists() or str(path) not in maps.read_text()


def test_label_has_no_channels(tmp_path):
    label = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    np.save(tmp_path / 'a_label.npy', label)
    assert (read_slice(f'{tmp_path}/a_label.npy#1') == label[1]).all()


def test_invalid_slices_are_refused(tmp_path):
    np.save(tmp_path / 'a.npy', np.zeros((2, 1, 3, 3)))
    with pytest.raises(ValueError, match=r'a\.npy#2.*one of the 2 slices'):
        read_slice(tmp_path / 'a.npy#2')
    with pytest.raises(ValueError, match=r'a\.npy: expected a slice'):
        read_slice(tmp_path / 'a.npy')
    with pytest.raises(FileNotFoundError):
        read_slice(tmp_path / 'b.npy#0')
    np.save(tmp_path / 'b.npy', np.zeros((2, 1, 3, 3), order='F'))
    with pytest.raises(ValueError, match=r'b\.npy: unreadable volume .*Fortran'):
        read_slice(tmp_path / 'b.npy#0')
    read_slice(tmp_path / 'a.npy#0')
    (tmp_path / 'a.npy').write_bytes((tmp_path / 'a.npy').read_bytes()[:-9])
    with pytest.raises(ValueError, match=r'a\.npy: unreadable volume'):
        read_slice(tmp_path / 'a.npy#0')


def test_figures_show_slices(tmp_path):
    np.save(tmp_path / 'a.npy', np.array([[[[0, 0]]], [[[-5, 5]]]], np.int16))
    assert read_picture(tmp_path / 'a.npy#1').tolist() == [[[0] * 3, [255] * 3]]


def test_intensity_is_that_of_all_voxels_of_a_channel():
    """Large numbers with a small spread, for which a sum of squares in float32 fails."""
    volume = np.random.default_rng(0).normal([[[[1e4]], [[3.0]]]], 0.5, (7, 2, 8, 9))
    volume = volume.astype(np.float32)
    by_channel = volume.astype(np.float64).transpose(1, 0, 2, 3).reshape(2, -1)
    for (mean, std, low, high), own in zip(case_intensity(volume), by_channel, strict=True):
        np.testing.assert_allclose((mean, std), (own.mean(), own.std()), rtol=1e-9)
        assert (low, high) == (own.min(), own.max())
    assert case_intensity(iter(volume)) == case_intensity(volume)


@pytest.mark.parametrize(('size', 'lengths'), [(3 * 32, [3, 3, 1]), (1, [1] * 7)])
def test_blocks_cover_files_and_have_a_size(tmp_path, monkeypatch, size, lengths):
    monkeypatch.setattr(store, '_BLOCK', size)
    volume = np.arange(7 * 4).reshape(7, 2, 2)  # 32 bytes per slice
    np.save(tmp_path / 'a.npy', volume)
    np.save(tmp_path / 'b.npy', volume.astype(np.uint8))
    first, second = zip(*blocks(tmp_path / 'a.npy', tmp_path / 'b.npy'), strict=True)
    for parts in (first, second):
        assert list(map(len, parts)) == lengths
        assert (np.concatenate(parts) == volume).all()


def test_link_of_a_volume_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / 'volumes').mkdir()
    np.save(tmp_path / 'a.npy', np.zeros((1, 1, 1, 1)))
    (tmp_path / 'volumes' / 'a.npy').symlink_to(tmp_path / 'a.npy')
    with pytest.raises(ValueError, match=r'a\.npy.*leads out of'):
        refuse_outside([SplitRow('a', 'a.npy#0', 'a', 0)], str(tmp_path / 'volumes'), 'train.csv')
