import copy
import json
import os
import shutil
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.prediction import outputs
from mmkdml.apis.prediction.inputs import ReadOptions
from mmkdml.apis.prediction.nifti import PLANES
from mmkdml.apis.prediction.outputs import predict_files
from mmkdml.apis.prediction.predictor import Predictor, load
from mmkdml.datasets.class_masks import ClassTable, read_class_mask
from mmkdml.datasets.images import read_binary_mask
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
MEMBERS = ['teacher', 'student_1', 'student_2', 'ensemble']


def thresholding_predictor(classes=None):
    """Build a predictor of mmseg's pipeline with a network that thresholds the intensity."""
    config = load_config(DEMO / 'student_demo.py')
    steps = config.test_dataloader.dataset.pipeline
    config.test_dataloader.dataset.pipeline = [steps[0], steps[-1]]
    config.model.data_preprocessor.update(mean=[0.0] * 3, std=[1.0] * 3)
    model = MODELS.build(config.model).eval()
    model.encode_decode = lambda inputs, metas: inputs[:, :1] - 127.5
    return Predictor(model, config, classes)


def read_table(out):
    return pd.read_csv(out / 'predictions.csv')


def test_written_masks_overlays_and_tables(segmentor, pictures, tmp_path):
    out = tmp_path / 'out'
    table = predict_files(segmentor, pictures, out)
    pd.testing.assert_frame_equal(read_table(out), table)
    assert list(table) == ['case', 'image', 'member', 'pixels_ill']
    assert table.case.tolist() == ['one'] * 4 + ['stack'] * 12 + ['sub/two'] * 4
    assert table.member.tolist() == MEMBERS * 5
    for prediction in segmentor.predict(pictures):
        case, index = prediction.case.source.name, prediction.index
        for name, answer in prediction.answers.items():
            if case == 'stack':
                with Image.open(out / 'masks' / name / 'stack.tif') as stack:
                    stack.seek(index)
                    mask = np.array(stack) // 255
                    assert stack.n_frames == 3
            else:
                mask = read_binary_mask(out / 'masks' / name / f'{case}.png')
            np.testing.assert_array_equal(mask, answer.label)
            chosen = (table.case == case) & (table.image == index) & (table.member == name)
            assert table[chosen].pixels_ill.tolist() == [answer.label.sum()]
    heights = {}
    for case in ('one', 'stack', 'sub/two'):
        with Image.open(out / 'overlays' / f'{case}.png') as overlay:
            heights[case] = overlay.height
    assert heights['stack'] > 2 * heights['one']  # one row per image
    content = json.loads((out / 'predictions.json').read_text())
    paths = {name: case['path'] for name, case in content['cases'].items()}
    assert paths == {
        'one': str(pictures / 'one.png'),
        'stack': str(pictures / 'stack.tif'),
        'sub/two': str(pictures / 'sub' / 'two.jpg'),
    }
    assert content['cases']['one']['rows'] == table[:4].drop(columns='case').to_dict('records')
    assert content['failed'] == {}
    assert content['settings']['members'] == MEMBERS
    assert len(content['settings']['checkpoint']) == 64


def test_table_of_classification(predictors, pictures, tmp_path):
    predictor = predictors['kdml_v3_demo_slices']
    predict_files(predictor, pictures, tmp_path / 'out', members=['student_2', 'ensemble'])
    table = read_table(tmp_path / 'out')
    names = [f'{kind}_{name}' for kind in ('score', 'probability') for name in ('healthy', 'ill')]
    assert list(table) == ['case', 'image', 'member', 'label', *names]
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        '.mmkdml_outputs',
        'cases',
        'predictions.csv',
        'predictions.json',
        'settings.json',
    ]
    predictions = predictor.predict(pictures, members=['student_2', 'ensemble'])
    answers = [answer for one in predictions for answer in one.answers.values()]
    for attribute, columns in (('scores', names[:2]), ('probabilities', names[2:])):
        values = np.stack([getattr(answer, attribute) for answer in answers])
        np.testing.assert_allclose(table[columns], values, rtol=1e-6)
    ensemble = table[table.member == 'ensemble']
    assert (ensemble[names[:2]].sum(axis=1) > 1).any()  # maxima over the students
    np.testing.assert_allclose(table[names[2:]].sum(axis=1), 1)
    assert table.label.tolist() == [('healthy', 'ill')[answer.label] for answer in answers]


@pytest.mark.parametrize('plane', ['axial', 'sagittal'])
def test_mask_of_a_volume_is_on_its_grid(segmentor, tmp_path, plane):
    nibabel = pytest.importorskip('nibabel')
    affine = np.array([[0, -2.0, 0, 9], [1, 0, 0, 8], [0, 0, 3, 7], [0, 0, 0, 1]])
    voxels = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / 'v.nii.gz')
    read = ReadOptions(plane=plane)
    out = tmp_path / 'out'
    table = predict_files(segmentor, tmp_path / 'v.nii.gz', out, read=read, overlays=False)
    mask = nibabel.load(out / 'masks' / 'ensemble' / 'v.nii.gz')
    assert mask.shape == voxels.shape
    np.testing.assert_allclose(mask.affine, affine)
    content = np.asarray(mask.dataobj)
    assert table[table.member == 'ensemble'].pixels_ill.sum() == content.sum() > 0
    assert set(np.unique(content)) == {0, 1}
    # The axes go to the patient's front, left and head.
    by_hand = {
        'axial': content[::-1].transpose(2, 0, 1),
        'sagittal': content[::-1, :, ::-1].transpose(1, 2, 0),
    }
    predictions = segmentor.predict(tmp_path / 'v.nii.gz', read=read)
    labels = [one.answers['ensemble'].label for one in predictions]
    np.testing.assert_array_equal(labels, by_hand[plane])
    assert not (out / 'overlays').exists()


@pytest.mark.parametrize('plane', PLANES)
def test_thresholding_network_returns_the_thresholded_volume(tmp_path, plane):
    """Masks have the voxel order and grid of the file in all 48 orientations."""
    nibabel = pytest.importorskip('nibabel')
    predictor = thresholding_predictor()
    voxels = np.random.default_rng(0).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    for number, (order, signs) in enumerate(
        product(permutations(range(3)), product((1, -1), repeat=3))
    ):
        affine = np.eye(4)
        affine[:3] = np.column_stack([np.eye(3)[list(order)] * signs * [1, 2, 3], [5, 6, 7]])
        (tmp_path / 'in').mkdir(exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(voxels, affine), tmp_path / 'in' / f'{number}.nii.gz')
    read = ReadOptions(plane, window=(0, 255))
    out = tmp_path / 'out'
    table = predict_files(
        predictor, tmp_path / 'in', out, read=read, overlays=False, batch_size=200
    )
    assert table.groupby('case').pixels_1.sum().tolist() == [(voxels > 127).sum()] * 48
    for number in range(48):
        mask = nibabel.load(out / 'masks' / 'model' / f'{number}.nii.gz')
        np.testing.assert_array_equal(np.asarray(mask.dataobj), voxels > 127)
        source = nibabel.load(tmp_path / 'in' / f'{number}.nii.gz')
        np.testing.assert_array_equal(mask.affine, source.affine)


def test_mask_of_dicom_is_nifti_on_the_grid_of_the_series(segmentor, tmp_path):
    """The slice of a real CT is from pydicom's test data."""
    nibabel = pytest.importorskip('nibabel')
    pydicom = pytest.importorskip('pydicom')
    (tmp_path / 'ct').mkdir()
    file = Path(pydicom.data.get_testdata_file('CT_small.dcm', download=False))
    (tmp_path / 'ct' / '1.2.3').write_bytes(file.read_bytes())
    table = predict_files(segmentor, tmp_path / 'ct', tmp_path / 'out')
    assert table.case.unique().tolist() == ['ct']
    mask = nibabel.load(tmp_path / 'out' / 'masks' / 'ensemble' / 'ct.nii.gz')
    (prediction,) = segmentor.predict(file)
    np.testing.assert_array_equal(
        np.asarray(mask.dataobj)[..., 0].T, prediction.answers['ensemble'].label
    )
    slice_ = pydicom.dcmread(file)
    x, y, z = slice_.ImagePositionPatient
    np.testing.assert_allclose(mask.affine[:3, 3], [-x, -y, z], rtol=1e-5)
    spacing = [*slice_.PixelSpacing[::-1], slice_.SliceThickness]
    np.testing.assert_allclose(mask.header.get_zooms(), spacing, rtol=1e-5)


@pytest.fixture
def codes(tmp_path):
    """Write a file of codes for the class of the demo."""
    codes = {
        key: dict(scheme='SCT', value=value, meaning=meaning)
        for key, value, meaning in (
            ('category', '49755003', 'Morphologically Altered Structure'),
            ('type', '108369006', 'Neoplasm'),
        )
    }
    content = dict(algorithm='Demo', segments=dict(ill=dict(label='Tumor', **codes)))
    path = tmp_path / 'codes.json'
    path.write_text(json.dumps(content))
    return path


def write_series(write_slice, folder, **changes):
    """Write a series of three slices."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for z in range(3):
        write_slice(
            folder / f'{z}.dcm', rng.integers(0, 500, (40, 50)), (-4 * z, 7, 20), Modality='MR',
            **{**dict(StudyInstanceUID='1.2', FrameOfReferenceUID='1.2.9'), **changes},
        )  # fmt: skip
    return folder


def test_segmentation_objects_equal_the_masks(pictures, write_slice, codes, tmp_path):
    """A series without what the standard requires fails; the image has only its own mask."""
    nibabel = pytest.importorskip('nibabel')
    highdicom = pytest.importorskip('highdicom')
    predictor = thresholding_predictor(classes=('healthy', 'ill'))
    write_series(write_slice, pictures / 'mr')
    write_series(write_slice, pictures / 'old', FrameOfReferenceUID=None)
    out, options = tmp_path / 'out', dict(segments=codes, overlays=False)
    message = r'1 of 5 cases failed.*\n.*FrameOfReferenceUID: expected a UID'
    with pytest.raises(ValueError, match=message):
        predict_files(predictor, pictures, out, **options)
    for name in predictor.members:
        mask = np.asarray(nibabel.load(out / 'masks' / name / 'mr.nii.gz').dataobj)
        seg = highdicom.seg.segread(out / 'segmentations' / name / 'mr.dcm')
        files = [predictor.predict(pictures / 'mr')[0].case.volume.frames[z][0] for z in range(3)]
        uids = [highdicom.imread(file).SOPInstanceUID for file in files]
        found = seg.get_pixels_by_source_instance(
            uids, combine_segments=True, assert_missing_frames_are_empty=True
        )
        np.testing.assert_array_equal(found.transpose(2, 1, 0), mask)
        assert seg.SegmentSequence[0].SegmentLabel == 'Tumor'
        assert seg.SeriesDescription == name
        assert sorted(path.name for path in (out / 'segmentations' / name).iterdir()) == ['mr.dcm']
    assert not list(out.rglob('*old*'))
    # Finished cases are kept, and other codes are other settings.
    shutil.rmtree(pictures / 'old')
    before = seg.SOPInstanceUID
    predict_files(predictor, pictures, out, **options)
    assert highdicom.seg.segread(seg.filename).SOPInstanceUID == before
    codes.write_text(codes.read_text().replace('Tumor', 'Glioma'))
    with pytest.raises(ValueError, match='segments'):
        predict_files(predictor, pictures, out, **options)


def test_invalid_segments_raise_before_the_prediction(
    segmentor, predictors, pictures, codes, tmp_path
):
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='--segments.*expected a DICOM series, got none'):
        predict_files(segmentor, pictures, out, segments=codes)
    classifier = predictors['kdml_v3_demo_slices']
    with pytest.raises(ValueError, match='--segments.*expected a segmentor.* got classification'):
        predict_files(classifier, pictures, out, segments=codes)
    codes.write_text(codes.read_text().replace('"ill"', '"healthy"'))
    with pytest.raises(ValueError, match=r'codes.json: segments: .*\(ill\), got healthy'):
        predict_files(segmentor, pictures, out, segments=codes)
    assert not out.exists()


def test_unreadable_files_are_reported_after_the_others_are_written(segmentor, pictures, tmp_path):
    (pictures / 'bad.png').write_text('no image')
    (pictures / 'cut.jpg').write_bytes((pictures / 'sub' / 'two.jpg').read_bytes()[:300])
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='2 of 5 cases failed, the others are in'):
        predict_files(segmentor, pictures, out)
    assert read_table(out).case.nunique() == 3
    failed = json.loads((out / 'predictions.json').read_text())['failed']
    assert list(failed) == ['bad', 'cut']
    assert 'bad.png: unreadable image' in failed['bad']
    assert not list(out.rglob('bad*'))
    with pytest.raises(ValueError, match=r'1 of 1 cases.*\n  .*bad.png: unreadable'):
        predict_files(segmentor, pictures / 'bad.png', tmp_path / 'none')


def test_unusual_file_names(segmentor, tmp_path):
    """TeX, format strings, other scripts and invalid UTF-8 in files and tables."""
    source = tmp_path / 'in'
    source.mkdir()
    names = ['$x_{1}$', 'ö 画像 {0} %s', 'a..b', os.fsdecode(b'\xe4'), 'x' * 200]
    for name in names:
        Image.new('RGB', (50, 40)).save(source / f'{name}.png')
    Image.new('RGB', (50, 40)).save(source / 'a..b.jpg')
    out = tmp_path / 'out'
    predict_files(segmentor, source, out)
    expected = ['$x_{1}$', 'a..b.jpg', 'a..b.png', 'x' * 200, 'ö 画像 {0} %s', '\ufffd']
    assert sorted(read_table(out).case.unique()) == expected
    for place in ('masks/ensemble', 'overlays'):
        assert sorted(path.name for path in (out / place).iterdir()) == [
            f'{name}.png' for name in expected
        ]
    assert predict_files(segmentor, source, out).case.nunique() == 6


def test_output_folder_inside_of_the_images_raises(segmentor, pictures):
    for images in (pictures, [str(pictures / 'sub'), pictures]):
        with pytest.raises(ValueError, match='out: it is inside of the input folder'):
            predict_files(segmentor, images, pictures / 'out')
    assert not (pictures / 'out').exists()


def test_several_foreground_classes(pictures, tmp_path):
    """Masks hold class indices, and the table has a pixel count for each class."""
    config = load_config(DEMO / 'kdml_v3_demo.py')
    for member in (config.model.teacher, *config.model.students):
        member.decode_head.update(out_channels=3, num_classes=3)
    torch.manual_seed(3)
    torch.save(MODELS.build(config.model).state_dict(), tmp_path / 'x.pth')
    predictor = load(config, tmp_path / 'x.pth', 'cpu')
    table = predict_files(predictor, pictures / 'one.png', tmp_path / 'out', overlays=False)
    assert list(table) == ['case', 'image', 'member', 'pixels_1', 'pixels_2']
    (prediction,) = predictor.predict(pictures / 'one.png')
    for name, answer in prediction.answers.items():
        mask = np.array(Image.open(tmp_path / 'out' / 'masks' / name / 'one.png'))
        np.testing.assert_array_equal(mask, answer.label)
        row = table[table.member == name].iloc[0]
        assert [row.pixels_1, row.pixels_2] == [(mask == 1).sum(), (mask == 2).sum()]
    assert prediction.answers['ensemble'].label.max() > 1


@pytest.mark.parametrize(
    'name',
    [
        *('settings.json', 'predictions.csv', 'predictions.json', 'cases/one.json'),
        *('masks/teacher/one.png', 'masks/ensemble/stack.tif', 'overlays/sub/two.png'),
    ],
)
@pytest.mark.parametrize('force', [True, False])
def test_existing_files_are_not_overwritten(segmentor, pictures, tmp_path, name, force):
    out = tmp_path / 'out'
    path = out / name
    path.parent.mkdir(parents=True)
    path.write_text('a user wrote it')
    with pytest.raises(FileExistsError, match=f'{name}: expected new files'):
        predict_files(segmentor, pictures, out, force=force)
    assert [one for one in out.rglob('*') if one.is_file()] == [path]
    assert path.read_text() == 'a user wrote it'
    (out / 'README.txt').write_text('another file of the user')
    path.unlink()
    predict_files(segmentor, pictures, out, overlays=False)


@pytest.mark.parametrize('link', [None, 'symlink_to', 'hardlink_to'])
def test_input_in_the_output_folder_is_not_overwritten(segmentor, pictures, tmp_path, link):
    """The mask of an earlier call, or a link to it."""
    out = tmp_path / 'out'
    predict_files(segmentor, pictures / 'one.png', out, overlays=False)
    mask = out / 'masks' / 'teacher' / 'one.png'
    content = mask.read_bytes()
    if link:
        (tmp_path / 'linked').mkdir()
        other = tmp_path / 'linked' / 'one.png'
        getattr(other, link)(mask)
        mask = other
    with pytest.raises(FileExistsError, match=r'teacher/one\.png: expected .* got inputs'):
        predict_files(segmentor, mask, out, overlays=False, force=True)
    assert (out / 'masks' / 'teacher' / 'one.png').read_bytes() == content


def test_cases_with_equal_names_raise(segmentor, pictures, tmp_path):
    out = tmp_path / 'out'
    Image.new('RGB', (9, 8)).save(pictures / 'sub' / 'one.png')
    both = [pictures / 'one.png', pictures / 'sub' / 'one.png']
    for images in (both, [pictures, pictures / 'one.png'], [pictures / 'one.png'] * 2):
        with pytest.raises(ValueError, match=r'one\.png and .*one\.png have the same name one'):
            predict_files(segmentor, images, out)
    assert not out.exists()
    table = predict_files(segmentor, pictures, out, overlays=False)
    assert table.case.unique().tolist() == ['one', 'stack', 'sub/one', 'sub/two']


def test_names_that_differ_only_in_case_raise_if_case_is_ignored(segmentor, tmp_path, monkeypatch):
    (tmp_path / 'in').mkdir()
    for name in ('Ä', 'ä', 'b'):
        Image.new('RGB', (50, 40)).save(tmp_path / 'in' / f'{name}.png')
    assert predict_files(segmentor, tmp_path / 'in', tmp_path / 'out').case.nunique() == 3
    monkeypatch.setattr(outputs, 'is_case_insensitive', lambda folder: True)
    with pytest.raises(ValueError, match=r'Ä\.png and .*ä\.png would both be written as Ä'):
        predict_files(segmentor, tmp_path / 'in', tmp_path / 'other')
    assert not (tmp_path / 'other' / 'masks').exists()


@pytest.mark.parametrize('length', [248, 251])
def test_too_long_name_fails_only_its_case(segmentor, pictures, tmp_path, length):
    out = tmp_path / 'out'
    pixels = Image.new('RGB', (50, 40))
    pixels.save(pictures / f'{"x" * length}.png')
    if length < 250:
        assert predict_files(segmentor, pictures, out).case.nunique() == 4
        return
    for _ in range(2):
        with pytest.raises(ValueError, match=r'1 of 4 cases.*\n.*xxx\.png: .*too long'):
            predict_files(segmentor, pictures, out, overlays=False)
        assert read_table(out).case.unique().tolist() == ['one', 'stack', 'sub/two']
    assert not list(out.rglob('*xxx*'))


def test_folder_with_the_name_of_a_mask_fails_only_its_case(segmentor, pictures, tmp_path):
    (pictures / 'x.png').mkdir()
    for path in (pictures / 'x.png' / 'y.jpg', pictures / 'x.jpg'):
        Image.new('RGB', (50, 40)).save(path)
    with pytest.raises(ValueError, match=r'1 of 5 cases.*\n.*x\.(jpg|png/y\.jpg): '):
        predict_files(segmentor, pictures, tmp_path / 'out', overlays=False)
    assert read_table(tmp_path / 'out').case.nunique() == 4


def test_old_mask_of_an_unreadable_case_is_removed(segmentor, pictures, tmp_path):
    out = tmp_path / 'out'
    predict_files(segmentor, pictures, out)
    (pictures / 'one.png').write_text('no image')
    with pytest.raises(ValueError, match='1 of 3 cases'):
        predict_files(segmentor, pictures, out)
    assert not list(out.rglob('one.*'))
    assert len(list(out.rglob('stack.*'))) == 6


def test_masks_have_the_colors_of_the_table(segmentor, pictures, tmp_path):
    predictor, colors = copy.copy(segmentor), ((0, 0, 0), (9, 99, 199))
    predict_files(segmentor, pictures, tmp_path / 'gray', overlays=False)
    predictor.colors = colors
    predict_files(predictor, pictures, tmp_path / 'colors', overlays=False)
    for name in predictor.members:
        gray, colored = (tmp_path / kind / 'masks' / name for kind in ('gray', 'colors'))
        expected = np.array(Image.open(gray / 'one.png')) // 255
        with Image.open(colored / 'one.png') as mask:
            assert mask.mode == 'P'
            assert (np.array(mask) == expected).all()
        # The file is a mask of the same data set, by values and by colors.
        for table in (ClassTable((0, 1), colors=colors), ClassTable(colors)):
            assert (read_class_mask(colored / 'one.png', table) == expected).all()
        with Image.open(gray / 'stack.tif') as plain, Image.open(colored / 'stack.tif') as stack:
            for page in range(3):
                plain.seek(page)
                stack.seek(page)
                assert (np.array(stack) == np.array(plain) // 255).all()
