"""Cases of folders with several series, radiographs and other objects."""

import re
from pathlib import Path

import numpy as np
import pytest

from mmkdml.apis.prediction.dicom.series import split_series
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source

pydicom = pytest.importorskip('pydicom')
ZEROS = np.zeros((5, 6))


@pytest.fixture
def folder(write_slice, tmp_path):
    """Two series of two slices each, mixed."""
    for z in range(2):
        for name, uid in (('a', '1.7'), ('b', '1.6')):
            write_slice(
                tmp_path / 'study' / f'{name}{z}.dcm', ZEROS + z, (z, 0, 0), SeriesInstanceUID=uid,
                SeriesNumber=3, SeriesDescription=f'T2 ax/{name}', StudyInstanceUID='1',
            )  # fmt: skip
    return tmp_path / 'study'


@pytest.fixture(autouse=True)
def study(tmp_path):
    (tmp_path / 'study').mkdir()


def cases(folder):
    return {source.name: [path.name for path in source.files] for source in find_sources(folder)}


def test_series_are_cases_with_their_descriptions(folder):
    expected = {'study/3_T2_ax_a': ['a0.dcm', 'a1.dcm'], 'study/3_T2_ax_b': ['b0.dcm', 'b1.dcm']}
    assert cases(folder) == expected
    assert cases(sorted(folder.iterdir(), reverse=True)).keys() == expected.keys()
    for source in find_sources(folder):
        assert read_source(source, ReadOptions()).volume.slices.shape == (2, 5, 6)
    for path in folder.glob('b*'):
        path.unlink()
    assert cases(folder) == {'study': ['a0.dcm', 'a1.dcm']}


@pytest.mark.parametrize('texts', [('T1', 't1'), ('', ''), ('..', '/'), ('x' * 70, 'x' * 80)])
def test_equal_descriptions_get_the_uid(write_slice, tmp_path, texts):
    for number, text in enumerate(texts):
        path = tmp_path / 'study' / str(number)
        write_slice(path, ZEROS, SeriesInstanceUID=f'1.{number}', SeriesDescription=text)
    found = cases(tmp_path / 'study')
    names = [Path(name).name.removesuffix(f'_1.{number}') for number, name in enumerate(found)]
    assert len(found) == 2
    assert all(len(name) <= 64 for name in names)
    assert [name.rpartition('1.')[2] for name in found] == ['0', '1']


def test_names_of_series_stay_in_their_folder(write_slice, tmp_path):
    for name, uid in (('a', '../../x'), ('b', '1.2.3')):
        write_slice(tmp_path / 'study' / name, ZEROS, SeriesInstanceUID=uid)
    assert cases(tmp_path / 'study') == {'study/1.2.3': ['b'], 'study/x': ['a']}


@pytest.mark.filterwarnings('ignore')
def test_other_objects_are_skipped_with_a_warning(folder):
    for name in ('test-SR', 'rtplan', 'rtdose', 'liver_1frame'):
        source = pydicom.data.get_testdata_file(f'{name}.dcm', download=False)
        (folder / f'{name}.dcm').write_bytes(Path(source).read_bytes())
    (folder / 'index').write_bytes(
        Path(pydicom.data.get_testdata_file('DICOMDIR', download=False)).read_bytes()
    )
    with pytest.warns(UserWarning, match='skipped .* not images') as warned:
        assert list(cases(folder)) == ['study/3_T2_ax_a', 'study/3_T2_ax_b']
    texts = ' '.join(str(one.message) for one in warned)
    for part in ('SR Storage: .*test-SR.dcm', 'RT Plan', 'RT Dose', 'Segmentation', 'Directory'):
        assert re.search(part, texts), part
    for path in folder.glob('[ab]?.dcm'):
        path.unlink()
    with pytest.raises(ValueError, match=r'got .*study with .*not images'):
        find_sources(folder)


def test_radiographs_and_multi_frame_files_are_named_as_images(
    folder, write_radiograph, write_enhanced, frames
):
    write_radiograph(folder / 'hand.dcm', ZEROS)
    write_radiograph(folder / 'foot.dcm', ZEROS)
    write_enhanced(folder / 'IM7', frames)
    assert cases(folder) == {
        'study/3_T2_ax_a': ['a0.dcm', 'a1.dcm'],
        'study/3_T2_ax_b': ['b0.dcm', 'b1.dcm'],
        'IM7': ['IM7'],
        'foot': ['foot.dcm'],
        'hand': ['hand.dcm'],
    }


def test_unreadable_slice_belongs_to_the_only_series(folder):
    """Without it, the volume would be incomplete at its end."""
    (folder / 'b0.dcm').write_bytes((folder / 'b0.dcm').read_bytes()[:400])
    (folder / 'c.dcm').write_bytes(b'')
    both = [folder / 'b0.dcm', folder / 'c.dcm']
    found = cases(folder)
    assert sorted(found) == ['b0', 'c', 'study/3_T2_ax_a', 'study/3_T2_ax_b']
    (series,) = split_series([folder / 'a0.dcm', *both])
    assert series.files == (folder / 'a0.dcm', *both)
    (series,) = split_series(both)
    assert (series.files, series.label, series.is_file) == (tuple(both), None, False)
