import json
import re
import warnings

import nibabel
import numpy as np
import pytest

from mmkdml.datasets import VolumeSliceDataset, convert_nnunet, read_split
from mmkdml.datasets.splits.manifest import read_manifest
from mmkdml.datasets.volumes import IGNORED, read_case, slice_axes

OBLIQUE = nibabel.affines.from_matvec(
    nibabel.eulerangles.euler2mat(0.4, 0.3, 0.2) @ np.diag([0.7, 0.8, 4]), [-9, 8, 7]
)


@pytest.fixture
def source(tmp_path, save_volumes, draw_cases):
    """Six cases of one channel."""
    return save_volumes(tmp_path / 'source', draw_cases())


@pytest.fixture
def problem(source, tmp_path):
    """Function that converts and returns the error as one line per problem."""

    def convert(**options):
        with pytest.raises(
            ValueError, match=re.escape(f'Invalid source folder {source}')
        ) as caught:
            convert_nnunet(source, tmp_path / 'out', **options)
        assert not list(tmp_path.glob('out/*.csv'))
        return str(caught.value)

    return convert


def save(path, voxels, affine=None):
    affine = np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine
    nibabel.save(nibabel.Nifti1Image(voxels, affine, dtype=voxels.dtype), path)


@pytest.mark.parametrize('axis', [None, 0, 1])
@pytest.mark.parametrize('dtype', [np.uint8, np.int16, np.uint16, np.float32])
def test_stored_slices_are_those_of_the_files(tmp_path, save_volumes, draw_cases, axis, dtype):
    """Four channels, three classes, an ignored label, anisotropic and oblique."""
    labels = ('background', 'a', 'b', 'ignore')
    cases = draw_cases(number=3, channels=4, classes=4, dtype=dtype)
    source = save_volumes(
        tmp_path / 'source', cases, ('T1', 'T1ce', 'T2', 'FLAIR'), labels, OBLIQUE
    )
    splits = convert_nnunet(source, tmp_path / 'out', axis=axis)
    axes = slice_axes(2 if axis is None else axis)
    assert sum(map(len, splits.values())) == sum(one.shape[axes[0]] for one, _ in cases.values())
    for part in splits:
        dataset = VolumeSliceDataset(
            ann_file=str(tmp_path / 'out' / f'{part}.csv'),
            data_root=str(tmp_path / 'out' / 'volumes'),
            pipeline=[dict(type='mmkdml.LoadVolumeSlice'), dict(type='mmkdml.LoadSliceLabel')],
        )
        assert dataset.metainfo['classes'] == ('background', 'a', 'b')
        for sample in map(dataset.__getitem__, range(len(dataset))):
            label, images = cases[sample['case']]
            number = sample['slice']
            own = images.transpose(*(axis + 1 for axis in axes), 0)[number]
            assert (sample['img'] == own.astype(np.float32)).all()
            truth = label.transpose(axes)[number]
            assert (sample['gt_seg_map'] == np.where(truth == 3, IGNORED, truth)).all()
            assert sample['slices'] == label.shape[axes[0]]
            np.testing.assert_allclose(sample['spacing'], np.array([0.7, 0.8, 4])[[*axes]])
            assert sample['group'] == sample['case']
            wide = images.astype(np.float64).reshape(4, -1)
            np.testing.assert_allclose(
                np.array(sample['case_intensity'])[:, :2], np.c_[wide.mean(1), wide.std(1)]
            )
    stored = np.load(tmp_path / 'out' / 'volumes' / 'case_0.npy', mmap_mode='r')
    assert stored.dtype == dtype
    np.testing.assert_allclose(read_case(tmp_path / 'out' / 'volumes', 'case_0').affine, OBLIQUE)


def test_decathlon_has_channels_on_the_fourth_axis(tmp_path, draw_cases):
    source = tmp_path / 'source'
    for folder in ('imagesTr', 'labelsTr'):
        (source / folder).mkdir(parents=True)
    cases = draw_cases(channels=2, classes=3)
    for name, (label, images) in cases.items():
        save(source / 'imagesTr' / f'{name}.nii.gz', np.moveaxis(images, 0, -1))
        save(source / 'labelsTr' / f'{name}.nii.gz', label)
    files = {key: f'./{key}sTr/{{}}.nii.gz' for key in ('image', 'label')}
    content = dict(
        modality={'0': 'T2', '1': 'ADC'},
        labels={'0': 'background', '1': 'PZ', '2': 'TZ'},
        numTraining=6,
        training=[{key: path.format(name) for key, path in files.items()} for name in cases],
    )
    (source / 'dataset.json').write_text(json.dumps(content))
    convert_nnunet(source, tmp_path / 'out')
    assert read_manifest(tmp_path / 'out')['channel_names'] == ['T2', 'ADC']
    for name, (label, images) in cases.items():
        stored = np.load(tmp_path / 'out' / 'volumes' / f'{name}.npy')
        assert (stored == images.transpose(3, 0, 2, 1)).all()
        stored = np.load(tmp_path / 'out' / 'volumes' / f'{name}_label.npy')
        assert (stored == label.transpose(2, 1, 0)).all()


def test_intensities_of_ct_are_those_of_the_foreground_of_the_training_part(
    tmp_path, save_volumes, draw_cases
):
    cases = draw_cases()
    source = save_volumes(tmp_path / 'source', cases, ('CT',))
    splits = convert_nnunet(source, tmp_path / 'out')
    (ct,) = read_manifest(tmp_path / 'out')['intensity']
    train = {row.group for row in splits['train']}
    assert len(train) < len(cases)
    own = [cases[name][1][0][cases[name][0] > 0] for name in sorted(train)]
    # Cases count equally, as in nnU-Net.
    mean = np.mean([one.mean() for one in own])
    square = np.mean([np.mean(one.astype(float) ** 2) for one in own])
    np.testing.assert_allclose((ct['mean'], ct['std']), (mean, np.sqrt(square - mean**2)))
    assert 0 <= ct['low'] < 20
    assert 880 < ct['high'] < 900


def test_empty_slices_are_dropped_from_training_only(source, tmp_path):
    splits = {}
    for empty in ('keep', 'drop', '0.5'):
        splits[empty] = convert_nnunet(source, tmp_path / 'out', empty=empty, force=True)
    for part in ('val', 'test'):
        assert splits['drop'][part] == splits['0.5'][part] == splits['keep'][part]
    train = splits['keep']['train']
    empty = [row for row in train if not row.label]
    assert {row.path.split('#')[1] for row in empty} == {'0'}
    assert splits['drop']['train'] == [row for row in train if row.label]
    assert read_split(tmp_path / 'out' / 'train.csv') == splits['0.5']['train']
    with pytest.raises(ValueError, match="empty.*got '1.5'"):
        convert_nnunet(source, tmp_path / 'out', empty='1.5')


def test_finished_cases_are_kept_and_changed_ones_converted_again(
    source, tmp_path, files_in, monkeypatch
):
    convert_nnunet(source, tmp_path / 'out')
    folder = tmp_path / 'out' / 'volumes'
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == 18
    before = files_in(tmp_path / 'out')
    convert_nnunet(source, tmp_path / 'out')
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times
    save(source / 'imagesTr' / 'case_1_0000.nii.gz', np.ones((10, 8, 5), np.int16))
    with pytest.raises(FileExistsError, match='case_1 .*--force'):
        convert_nnunet(source, tmp_path / 'out')
    assert files_in(tmp_path / 'out') == before
    convert_nnunet(source, tmp_path / 'out', force=True)
    after = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert {path.name for path in after if after[path] != times[path]} == {
        'case_1.npy', 'case_1_label.npy', 'case_1.json',
    }  # fmt: skip
    assert (np.load(folder / 'case_1.npy') == 1).all()


def test_stopped_conversion_continues(source, tmp_path, files_in, monkeypatch):
    convert_nnunet(source, tmp_path / 'out')
    expected = files_in(tmp_path / 'out')
    out = tmp_path / 'stopped'
    (out / 'volumes').mkdir(parents=True)
    for name in ('case_0.npy', 'case_0_label.npy', 'case_0.json', 'case_1.npy'):
        (out / 'volumes' / name).write_bytes((tmp_path / 'out' / 'volumes' / name).read_bytes())
    (out / 'volumes' / '.case_1_label.npy.1.ab.part').write_bytes(b'half')
    convert_nnunet(source, out)
    assert files_in(out) == expected


def test_folds_have_their_own_intensities(tmp_path, save_volumes, draw_cases):
    source = save_volumes(tmp_path / 'source', draw_cases(), ('CT',))
    convert_nnunet(source, tmp_path / 'out', folds=3)
    manifest = read_manifest(tmp_path / 'out' / 'fold_1')
    assert manifest['folds'] == 3
    assert len({json.dumps(one) for one in manifest['intensity']}) == 3
    tested = [
        {row.group for row in read_split(tmp_path / 'out' / f'fold_{k}' / 'test.csv')}
        for k in range(3)
    ]
    assert sorted(name for part in tested for name in part) == [f'case_{n}' for n in range(6)]
    dataset = VolumeSliceDataset(
        ann_file=str(tmp_path / 'out' / 'fold_1' / 'train.csv'),
        data_root=str(tmp_path / 'out' / 'volumes'),
        pipeline=[dict(type='mmkdml.NormalizeVolume')],
    )
    assert dataset.pipeline.transforms[0].channels == manifest['intensity'][1]


def test_validation_of_a_published_fold_is_our_test(source, tmp_path):
    names = [f'case_{number}' for number in range(6)]
    published = [
        dict(train=[n for n in names if n not in val], val=val) for val in (names[:3], names[3:])
    ]
    (source / 'splits_final.json').write_text(json.dumps(published))
    splits = convert_nnunet(source, tmp_path / 'out')
    for number, fold in enumerate(published):
        groups = {
            part: {row.group for row in splits[f'fold_{number}/{part}']}
            for part in ('train', 'val', 'test')
        }
        assert groups['test'] == {*fold['val']}
        assert groups['train'] | groups['val'] == {*fold['train']}
        assert not groups['train'] & groups['val']
    published[0]['val'].append('case_3')
    (tmp_path / 'other.json').write_text(json.dumps(published))
    (tmp_path / 'numbers.json').write_text(json.dumps([dict(train=[2], val=[1, 'x'])]))
    for options, match in (
        (dict(splits_final=tmp_path / 'other.json'), r'other\.json.*val of one fold, got case_3'),
        (dict(splits_final=tmp_path / 'other.json', folds=2), 'folds or splits_final'),
        (dict(splits_final=tmp_path / 'numbers.json'), 'cases of the data set, got 1, 2, x'),
        (dict(splits_final=source / 'dataset.json'), r'dataset\.json: expected \[\{'),
    ):
        with pytest.raises(ValueError, match=match):
            convert_nnunet(source, tmp_path / 'third', **options)
    with pytest.raises(FileNotFoundError, match='none.json .--splits-final'):
        convert_nnunet(source, tmp_path / 'fourth', splits_final=tmp_path / 'none.json')
    assert not (tmp_path / 'fourth').exists()  # before the volumes are stored
    convert_nnunet(source, tmp_path / 'third', folds=3)  # an explicit number
    assert read_manifest(tmp_path / 'third')['folds'] == 3


def test_groups_are_found_in_the_names_of_cases(source, tmp_path):
    splits = convert_nnunet(source, tmp_path / 'out', group_regex=r'case_(\d)', ratios=(2, 1, 1))
    assert {row.group for rows in splits.values() for row in rows} == set('012345')


def test_several_orientations_are_a_warning(source, tmp_path):
    label = nibabel.load(source / 'labelsTr' / 'case_0.nii.gz')
    flipped = np.diag([-1.0, 1, 3, 1])
    save(source / 'labelsTr' / 'case_0.nii.gz', np.asarray(label.dataobj), flipped)
    save(source / 'imagesTr' / 'case_0_0000.nii.gz', np.zeros(label.shape, np.int16), flipped)
    with pytest.warns(UserWarning, match=r'5 RAS, 1 LAS'):
        convert_nnunet(source, tmp_path / 'out')
    assert read_manifest(tmp_path / 'out')['orientation'] is None


def test_axis_without_depth_is_that_of_the_slices(tmp_path, save_volumes, draw_cases):
    source = save_volumes(tmp_path / 'source', draw_cases(3, shape=(1, 8, 5)))
    for path in (source / 'labelsTr').glob('*1.nii.gz'):
        path.unlink()
        (source / 'imagesTr' / 'case_1_0000.nii.gz').unlink()
    (source / 'dataset.json').write_text(
        (source / 'dataset.json').read_text().replace('"numTraining": 3', '"numTraining": 2')
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        convert_nnunet(source, tmp_path / 'out', ratios=(1, 0, 1))
    assert read_manifest(tmp_path / 'out')['axis'] == 0


def test_all_problems_of_a_set_are_one_list(source, problem):
    images, labels = source / 'imagesTr', source / 'labelsTr'
    (images / 'case_0_0000.nii.gz').unlink()
    (labels / 'case_1.nii.gz').unlink()
    save(images / 'case_2_0001.nii.gz', np.zeros((9, 8, 5), np.int16))
    save(images / 'case_9.nii.gz', np.zeros((9, 8, 5), np.int16))
    message = problem()
    for part in (
        r'case_0: no image imagesTr/case_0_0000\.nii\.gz',
        r'case_1: no label labelsTr/case_1\.nii\.gz',
        r'case_2_0001\.nii\.gz: expected channels 0 to 0',
        r'case_9\.nii\.gz: expected <case>_<channel of 4 digits>',
        'numTraining: expected 6',
    ):
        assert re.search(part, message)
    assert message.count('\n  - ') >= 5


def test_problems_of_files_are_one_line_each(source, problem):
    images, labels = source / 'imagesTr', source / 'labelsTr'
    label = np.asarray(nibabel.load(labels / 'case_0.nii.gz').dataobj)
    save(labels / 'case_0.nii.gz', label + 7)
    save(labels / 'case_1.nii.gz', np.full((10, 8, 5), 0.5, np.float32))
    wrong = np.full((9, 8, 5), np.nan, np.float32)
    save(images / 'case_2_0000.nii.gz', wrong)
    truncated = (images / 'case_3_0000.nii.gz').read_bytes()[:-60]
    (images / 'case_3_0000.nii.gz').write_bytes(truncated)
    save(labels / 'case_4.nii.gz', wrong)
    message = problem()
    for part in (
        r'labelsTr/case_0\.nii\.gz: expected the labels 0 to 1.*got 7, 8 in 360 voxels',
        r'labelsTr/case_1\.nii\.gz: expected the labels 0 to 1.*got 0\.5',
        r'imagesTr/case_2_0000\.nii\.gz: expected finite voxels, got 360 NaN',
        r'imagesTr/case_3_0000\.nii\.gz: ',
        r'labelsTr/case_4\.nii\.gz: expected finite voxels',
    ):
        assert re.search(part, message)
    assert len(message.splitlines()) == 6


def test_grids_of_a_case_must_be_equal(source, problem):
    images, labels = source / 'imagesTr', source / 'labelsTr'
    save(images / 'case_0_0000.nii.gz', np.zeros((9, 8, 4), np.int16))
    save(labels / 'case_1.nii.gz', np.zeros((10, 8, 5), np.uint8), np.diag([1.0, 1, 4, 1]))
    save(images / 'case_2_0000.nii.gz', np.zeros((9, 8), np.int16))
    save(images / 'case_3_0000.nii.gz', np.zeros((10, 8, 5, 2), np.int16))
    (images / 'case_4_0000.nii.gz').write_bytes(b'')
    other = nibabel.load(images / 'case_5_0000.nii.gz')
    other.header.set_xyzt_units('micron')
    nibabel.save(
        nibabel.Nifti1Image(np.asarray(other.dataobj), None, other.header),
        images / 'case_5_0000.nii.gz',
    )
    message = problem()
    for part in (
        r'labelsTr/case_0\.nii\.gz: expected the grid of imagesTr/case_0_0000.*shape \(9, 8, 5\)',
        r'labelsTr/case_1\.nii\.gz: .*spacing \(1, 1, 4\) instead of \(1, 1, 3\)',
        r'case_2_0000\.nii\.gz: .*shape \(9, 8\).*folders',
        r'case_3_0000\.nii\.gz: expected the 1 channels T1.*got 2',
        r'case_4_0000\.nii\.gz: ',
        r'case_5_0000\.nii\.gz: expected an affine in millimeters .xyzt_units., got micron',
    ):
        assert re.search(part, message)
