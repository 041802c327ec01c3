import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.image_sources import ReadOptions
from mmkdml.apis.prediction import load
from mmkdml.apis.prediction_files import predict_files
from mmkdml.datasets.images import read_binary_mask
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[2] / 'configs' / 'demo'
MEMBERS = ['teacher', 'student_1', 'student_2', 'ensemble']


@pytest.fixture(scope='module')
def predictors(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')
    loaded = {}
    for name in ('kdml_v3_demo', 'kdml_v3_demo_slices'):
        torch.manual_seed(0)
        state = MODELS.build(load_config(DEMO / f'{name}.py').model).state_dict()
        meta = dict(dataset_meta=dict(classes=('healthy', 'ill')))
        torch.save(dict(state_dict=state, meta=meta), folder / f'{name}.pth')
        loaded[name] = load(DEMO / f'{name}.py', folder / f'{name}.pth', 'cpu')
    return loaded


@pytest.fixture
def segmentor(predictors):
    return predictors['kdml_v3_demo']


@pytest.fixture
def folder(tmp_path):
    """``one.png``, ``sub/two.jpg`` and a stack of three, 40 x 50."""
    path = tmp_path / 'images'
    (path / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)) for _ in range(3)]
    pages[0].save(path / 'one.png')
    pages[1].copy().save(path / 'sub' / 'two.jpg')  # which leaves its mark on the image
    pages[0].save(path / 'stack.tif', save_all=True, append_images=pages[1:])
    return path


def read_table(out):
    return pd.read_csv(out / 'predictions.csv')


def test_masks_overlays_and_tables(segmentor, folder, tmp_path):
    out = tmp_path / 'out'
    table = predict_files(segmentor, folder, out)
    pd.testing.assert_frame_equal(read_table(out), table)
    assert list(table) == ['case', 'image', 'member', 'pixels_ill']
    assert table.case.tolist() == ['one'] * 4 + ['stack'] * 12 + ['sub/two'] * 4
    assert table.member.tolist() == MEMBERS * 5
    for prediction in segmentor.predict(folder):
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
    assert heights['stack'] > 2 * heights['one']  # a row for each image
    content = json.loads((out / 'predictions.json').read_text())
    assert list(content['cases']) == ['one', 'stack', 'sub/two']
    assert content['failed'] == {}
    assert content['settings']['members'] == MEMBERS
    assert len(content['settings']['checkpoint']) == 64


def test_classes_and_scores(predictors, folder, tmp_path):
    predictor = predictors['kdml_v3_demo_slices']
    predict_files(predictor, folder, tmp_path / 'out', members=['student_2', 'ensemble'])
    table = read_table(tmp_path / 'out')
    assert list(table) == ['case', 'image', 'member', 'label', 'score_healthy', 'score_ill']
    assert sorted(path.name for path in (tmp_path / 'out').iterdir()) == [
        'cases',
        'predictions.csv',
        'predictions.json',
        'settings.json',
    ]
    predictions = predictor.predict(folder, members=['student_2', 'ensemble'])
    answers = [answer for one in predictions for answer in one.answers.values()]
    scores = np.stack([answer.probabilities for answer in answers])
    np.testing.assert_allclose(table[['score_healthy', 'score_ill']], scores, rtol=1e-6)
    assert table.label.tolist() == [('healthy', 'ill')[answer.label] for answer in answers]


@pytest.mark.parametrize('plane', ['axial', 'sagittal'])
def test_masks_of_a_volume_lie_on_its_grid(segmentor, tmp_path, plane):
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
    # The first axis is the patient's front, the second the left, the third the head.
    by_hand = {
        'axial': content[::-1].transpose(2, 0, 1),
        'sagittal': content[::-1, :, ::-1].transpose(1, 2, 0),
    }
    predictions = segmentor.predict(tmp_path / 'v.nii.gz', read=read)
    labels = [one.answers['ensemble'].label for one in predictions]
    np.testing.assert_array_equal(labels, by_hand[plane])
    assert not (out / 'overlays').exists()


def test_a_mask_of_dicom_is_nifti_on_the_grid_of_the_series(segmentor, tmp_path):
    """A slice of a real CT that pydicom has with it."""
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


def test_good_files_are_done_and_bad_ones_told_of(segmentor, folder, tmp_path):
    (folder / 'bad.png').write_text('no image')
    (folder / 'cut.jpg').write_bytes((folder / 'sub' / 'two.jpg').read_bytes()[:300])
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='2 of 5 cases could not be predicted, the others are in'):
        predict_files(segmentor, folder, out)
    assert read_table(out).case.nunique() == 3
    failed = json.loads((out / 'predictions.json').read_text())['failed']
    assert list(failed) == ['bad', 'cut']
    assert 'bad.png: unreadable image' in failed['bad']
    assert not list(out.rglob('bad*'))
    with pytest.raises(ValueError, match=r'1 of 1 cases.*\n  .*bad.png: unreadable'):
        predict_files(segmentor, folder / 'bad.png', tmp_path / 'none')


def test_what_is_done_is_not_done_again(segmentor, folder, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    predicted = []
    stream = segmentor.stream
    monkeypatch.setattr(
        segmentor,
        'stream',
        lambda sources, **options: (
            predicted.append([source.name for source in sources]) or stream(sources, **options)
        ),
    )

    def run(**options):
        predict_files(segmentor, folder, out, overlays=False, **options)
        return predicted.pop()

    assert run() == ['one', 'stack', 'sub/two']
    table = read_table(out)
    assert run() == []
    pd.testing.assert_frame_equal(read_table(out), table)
    Image.new('RGB', (50, 40)).save(folder / 'new.png')
    os.utime(folder / 'one.png', (1, 1))
    assert run() == ['new', 'one']
    assert read_table(out).case.unique().tolist() == ['new', 'one', 'stack', 'sub/two']
    assert run(force=True) == ['new', 'one', 'stack', 'sub/two']


def test_a_stop_loses_the_case_at_hand_alone(segmentor, folder, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    write = Image.Image.save

    def stop(image, path, *args, **options):
        if 'student_1/stack' in str(path):
            raise KeyboardInterrupt
        write(image, path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, 'save', stop)
        with pytest.raises(KeyboardInterrupt):
            predict_files(segmentor, folder, out, overlays=False)
    assert [path.stem for path in (out / 'cases').iterdir()] == ['one']
    before = (out / 'cases' / 'one.json').stat().st_mtime_ns
    resumed = predict_files(segmentor, folder, out, overlays=False)
    assert (out / 'cases' / 'one.json').stat().st_mtime_ns == before
    anew = predict_files(segmentor, folder, tmp_path / 'anew', overlays=False)
    pd.testing.assert_frame_equal(resumed, anew)
    for path in (tmp_path / 'anew' / 'masks').rglob('*.*'):
        assert (out / path.relative_to(tmp_path / 'anew')).read_bytes() == path.read_bytes()


def test_other_settings_need_another_folder(segmentor, predictors, folder, tmp_path):
    out = tmp_path / 'out'
    one = folder / 'one.png'
    predict_files(segmentor, one, out, overlays=False)
    with pytest.raises(ValueError, match=r'other settings \(augment: False there, True now\)'):
        predict_files(segmentor, one, out, overlays=False, augment=True)
    with pytest.raises(ValueError, match="config: 'kdml_v3_demo' there, 'kdml_v3_demo_slices' now"):
        predict_files(predictors['kdml_v3_demo_slices'], one, out)
    before = read_table(out)
    predict_files(segmentor, one, out, overlays=False, augment=True, force=True)
    assert not read_table(out).equals(before)
    with pytest.raises(ValueError, match='augment: True there, False now'):
        predict_files(segmentor, one, out, overlays=False)


def test_the_folder_of_images_is_no_place_for_masks(segmentor, folder):
    for images in (folder, [str(folder / 'sub'), folder]):
        with pytest.raises(ValueError, match='its masks would be the next images'):
            predict_files(segmentor, images, folder / 'out')
    assert not (folder / 'out').exists()


def test_more_than_two_classes(folder, tmp_path):
    """Indices in the masks, and a number of pixels for each; the union is outlined."""
    config = load_config(DEMO / 'kdml_v3_demo.py')
    for member in (config.model.teacher, *config.model.students):
        member.decode_head.update(out_channels=3, num_classes=3)
    torch.manual_seed(3)
    torch.save(MODELS.build(config.model).state_dict(), tmp_path / 'x.pth')
    predictor = load(config, tmp_path / 'x.pth', 'cpu')
    table = predict_files(predictor, folder / 'one.png', tmp_path / 'out', overlays=False)
    assert list(table) == ['case', 'image', 'member', 'pixels_1', 'pixels_2']
    (prediction,) = predictor.predict(folder / 'one.png')
    for name, answer in prediction.answers.items():
        mask = np.array(Image.open(tmp_path / 'out' / 'masks' / name / 'one.png'))
        np.testing.assert_array_equal(mask, answer.label)
        row = table[table.member == name].iloc[0]
        assert [row.pixels_1, row.pixels_2] == [(mask == 1).sum(), (mask == 2).sum()]
    assert prediction.answers['ensemble'].label.max() > 1
