"""Folders of cases as nnU-Net predicts them, with networks whose answers are computed by hand."""

import gzip
import json
from itertools import tee
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmseg.datasets.transforms import PackSegInputs
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.prediction import nifti, scratch
from mmkdml.apis.prediction.fold_predictor import FoldPredictor
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources
from mmkdml.apis.prediction.nifti import read_nifti
from mmkdml.apis.prediction.outputs import predict_files
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.apis.prediction.volume import VolumeFormat
from mmkdml.datasets import LoadCheckedImage, LoadVolumeSlice, NormalizeVolume
from mmkdml.registry import MODELS

nibabel = pytest.importorskip('nibabel')

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
OBLIQUE = np.array([[0.5, 0.1, -2.9, 4], [-0.1, 0.5, 0.2, 5], [0.3, 0.1, 1.1, -6], [0, 0, 0, 1]])
CT = dict(name='CT', scheme='ct', mean=20.0, std=50.0, low=-300.0, high=400.0)
T1 = dict(name='T1', scheme='zscore')


def predictor_of(network, *steps):
    """Build a predictor with a network that is a function of its input (N, C, H, W)."""
    config = load_config(DEMO / 'student_demo.py').model
    config.data_preprocessor = dict(type='mmseg.SegDataPreProcessor')
    model = MODELS.build(config).eval()
    model.encode_decode = lambda inputs, metas: network(inputs)
    steps = [dict(type=kind, **settings) for kind, settings in steps]
    return Predictor(model, Config(dict(test_pipeline=[*steps, dict(type=PackSegInputs)])))


def three_classes(inputs):
    """Score three classes by the first, the middle and the last channel."""
    return inputs[:, [0, inputs.shape[1] // 2, -1]] * torch.tensor([1.0, 2, 3])[:, None, None]


def of_volumes(context=0, axis=2, channels=(CT, T1)):
    return predictor_of(
        three_classes,
        (LoadVolumeSlice, dict(context=context, axis=axis)),
        (NormalizeVolume, dict(channels=list(channels))),
    )


def save(path, voxels, affine=OBLIQUE):
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)


def ct_and_t1(seed, shape=(5, 6, 7)):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 300, shape).astype(np.int16), rng.normal(5, 2, shape).astype('f4')]


def write_case(folder, name, seed):
    folder.mkdir(exist_ok=True)
    volumes = ct_and_t1(seed)
    for channel, voxels in enumerate(volumes):
        save(folder / f'{name}_{channel:04}.nii.gz', voxels)
    return volumes


def by_hand(volumes, axis, context):
    """Normalize complete volumes in float64, and take the largest of the three channels."""
    ct, t1 = (np.moveaxis(one.astype(np.float64), axis, 0) for one in volumes)
    t1 = (t1 - t1.mean()) / t1.std()
    ct = (ct.clip(-300, 400) - 20) / 50
    numbers = np.arange(len(ct))
    planes = [
        one[(numbers + step).clip(0, len(ct) - 1)]
        for step in range(-context, context + 1)
        for one in (ct, t1)
    ]
    scores = np.stack([planes[0], 2 * planes[len(planes) // 2], 3 * planes[-1]])
    return np.moveaxis(scores.argmax(0), 0, axis)


@pytest.mark.parametrize('kept', [0, 2**24])
@pytest.mark.parametrize(('axis', 'context'), [(2, 0), (0, 1), (None, 2)])
def test_masks_of_a_network_of_volumes(tmp_path, monkeypatch, kept, axis, context):
    """Two channels, three classes, an oblique grid whose coarsest axis is the last one."""
    monkeypatch.setattr(scratch, '_KEPT', kept)
    volumes = write_case(tmp_path / 'in', 'Case.1_b', seed=3)
    predict_files(of_volumes(context, axis), tmp_path / 'in', tmp_path / 'out', batch_size=3)
    mask = nibabel.load(tmp_path / 'out' / 'masks' / 'model' / 'Case.1_b.nii.gz')
    expected = by_hand(volumes, 2 if axis is None else axis, context)
    assert set(np.unique(expected)) == {0, 1, 2}
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_allclose(mask.affine, OBLIQUE, rtol=1e-6)
    cases = json.loads((tmp_path / 'out' / 'predictions.json').read_text())['cases']
    assert cases['Case.1_b']['path'] == str(tmp_path / 'in' / 'Case.1_b_0000.nii.gz')
    assert len(cases['Case.1_b']['rows']) == expected.shape[2 if axis is None else axis]


def test_masks_equal_those_of_the_slices(tmp_path):
    """RGB pictures of 8 bits, each channel as a volume; intensities are kept by the window."""
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3)).astype(np.uint8)
    (tmp_path / 'slices').mkdir()
    for index, one in enumerate(pixels):
        Image.fromarray(one).save(tmp_path / 'slices' / f'{index}.png')
    (tmp_path / 'volumes').mkdir()
    for channel in range(3):  # columns go to the left, rows to the back, slices to the head
        voxels = pixels[..., channel].transpose(2, 1, 0)
        affine = np.diag([-1, -1, 2, 1])
        save(tmp_path / 'volumes' / f'p_{channel:04}.nii.gz', voxels, affine)
    predictor = predictor_of(three_classes, (LoadCheckedImage, {}))
    slices = [one.answers['model'] for one in predictor.predict(tmp_path / 'slices')]
    read = ReadOptions(window=(0, 255))
    predict_files(predictor, tmp_path / 'volumes', tmp_path / 'out', read=read, batch_size=2)
    mask = nibabel.load(tmp_path / 'out' / 'masks' / 'model' / 'p.nii.gz')
    labels = np.stack([answer.label for answer in slices])
    assert set(np.unique(labels)) == {0, 1, 2}
    np.testing.assert_array_equal(np.asarray(mask.dataobj).transpose(2, 1, 0), labels)


def test_invalid_cases_do_not_stop_the_others(tmp_path, monkeypatch):
    """Each is named in one line, and a second call only predicts them."""
    folder, out = tmp_path / 'in', tmp_path / 'out'
    for seed, name in enumerate(('good', 'damaged', 'short', 'more', 'grid', 'kind', 'other')):
        write_case(folder, name, seed)
    path = folder / 'damaged_0001.nii.gz'
    content = path.read_bytes()
    path.write_bytes(content[:-20])
    (folder / 'short_0001.nii.gz').unlink()
    save(folder / 'more_0002.nii.gz', ct_and_t1(0)[0])
    save(folder / 'grid_0001.nii.gz', ct_and_t1(0, (5, 6, 6))[1])
    save(folder / 'kind_0000.nii.gz', np.zeros((5, 6, 7), np.complex64))
    Image.new('L', (4, 4)).save(folder / 'picture.png')
    predictor = of_volumes()
    with pytest.raises(ValueError, match='6 of 8 cases failed') as refused:
        predict_files(predictor, folder, out)
    lines = str(refused.value).splitlines()[1:]
    for line, fact in zip(
        lines,
        (
            'damaged_0001.nii.gz: unreadable NIfTI (EOFError',
            'grid_0001.nii.gz: expected the grid of grid_0000.nii.gz, got shape (5, 6, 6)',
            'kind_0000.nii.gz: expected one real number per voxel, got complex64',
            'more_0000.nii.gz: expected 2 channels, as the network, each in a file with one '
            'channel: unexpected more_0002.nii.gz',
            'picture.png: expected a NIfTI volume',
            'short_0000.nii.gz: expected 2 channels, as the network, each in a file with one '
            'channel: missing short_0001.nii.gz',
        ),
        strict=True,
    ):
        assert fact in line
    written = sorted(path.name for path in (out / 'masks' / 'model').iterdir())
    assert written == ['good.nii.gz', 'other.nii.gz']
    path.write_bytes(content)
    predicted = []
    stream = predictor.stream
    monkeypatch.setattr(
        predictor, 'stream',
        lambda sources, **options: predicted.extend(sources) or stream(sources, **options),
    )  # fmt: skip
    with pytest.raises(ValueError, match='5 of 8 cases failed'):
        predict_files(predictor, folder, out)
    names = {source.name for source in predicted}
    assert names == {'damaged', 'grid', 'kind', 'more', 'picture', 'short'}
    assert (out / 'masks' / 'model' / 'damaged.nii.gz').is_file()


def test_names_of_cases(tmp_path):
    """Upper case, dots, subfolders, files by name, and years that are no channels."""
    (tmp_path / 'sub').mkdir()
    for name in ('a.b_0000.NII.GZ', 'a.b_0001.nii', 'sub/a_0000.nii', 'x_2019.nii', 'x_2020.nii'):
        save(tmp_path / 'v.nii', ct_and_t1(0)[0])
        content = (tmp_path / 'v.nii').read_bytes()
        packed = gzip.compress(content) if name.endswith('GZ') else content
        (tmp_path / name).write_bytes(packed)
    (tmp_path / 'v.nii').unlink()
    found = {one.name: [file.name for file in one.files] for one in find_sources(tmp_path)}
    assert found == {
        'a.b': ['a.b_0000.NII.GZ', 'a.b_0001.nii'],
        'sub/a': ['a_0000.nii'],
        'x_2019': ['x_2019.nii'],
        'x_2020': ['x_2020.nii'],
    }
    by_name = [tmp_path / 'a.b_0001.nii', tmp_path / 'a.b_0000.NII.GZ']
    (source,) = find_sources(by_name)
    assert source.files == (by_name[1], by_name[0])
    predictions = of_volumes(channels=(T1, T1)).predict(by_name)
    assert len(predictions) == 7


def test_predictions_of_several_models_of_the_same_cases(tmp_path):
    """Models in step read each volume once; their average is by hand."""
    write_case(tmp_path / 'in', 'a', 0)
    write_case(tmp_path / 'in', 'b', 1)
    models = [of_volumes(), of_volumes(channels=(dict(CT, mean=-100.0), T1))]
    cases = tee(models[0].read(find_sources(tmp_path / 'in')), 2)
    streams = [
        model.stream_cases(own, batch_size=4) for model, own in zip(models, cases, strict=True)
    ]
    count = 0
    alone = [model.predict(tmp_path / 'in') for model in models]
    for together, separate in zip(
        zip(*streams, strict=True), zip(*alone, strict=True), strict=True
    ):
        assert together[0].case is together[1].case
        for one, other in zip(together, separate, strict=True):
            scores = one.answers['model'].scores
            np.testing.assert_array_equal(scores, other.answers['model'].scores)
        count += 1
    assert count == 14


def test_settings_without_effect_raise(tmp_path):
    write_case(tmp_path / 'in', 'a', 0)
    for read in (ReadOptions(plane='coronal'), ReadOptions(window=(0, 1))):
        with pytest.raises(ValueError, match='plane .* or window .*trained on volumes'):
            of_volumes().predict(tmp_path / 'in', read=read)
    with pytest.raises(ValueError, match='expected NormalizeVolume with channels'):
        predictor_of(three_classes, (LoadVolumeSlice, {})).predict(tmp_path / 'in')


@pytest.mark.parametrize('augment', [False, True])
def test_runs_of_folds_normalize_by_the_statistics_of_their_own_training_part(tmp_path, augment):
    write_case(tmp_path, 'a', 0)
    other = dict(CT, mean=-90.0, std=11.0, high=33.0)
    runs = [of_volumes(context=1), of_volumes(context=1, channels=(other, T1))]
    options = dict(batch_size=3, augment=augment)
    means = np.mean([[one.answers['model'].scores for one in run.predict(tmp_path, **options)]
                     for run in runs], axis=0)  # fmt: skip
    found = FoldPredictor(runs).predict(tmp_path, **options)
    answers = [one.answers['model'] for one in found]
    np.testing.assert_allclose([one.scores for one in answers], means, atol=1e-6)
    np.testing.assert_array_equal([one.label for one in answers], means.argmax(1))
    swapped = of_volumes(context=1, channels=(T1, CT))
    with pytest.raises(ValueError, match=r'equal networks and inputs.*\n.*pipeline'):
        FoldPredictor([runs[0], swapped])


def test_other_orientation_than_in_training_is_a_warning(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(nifti, 'print_log', lambda text, *args: logged.append(text))
    save(tmp_path / 'a.nii', np.zeros((3, 4, 5), np.int16), np.diag([-1.0, 1, 2, 1]))
    for orientation in (None, 'LAS', 'RAS'):
        form = VolumeFormat(stored=True, raw=True, axis=2, orientation=orientation)
        read_nifti(tmp_path / 'a.nii', form=form)
    (text,) = logged
    assert text.startswith(f'{tmp_path}/a.nii: the axes have the orientation LAS, but those in ')
    load = (LoadVolumeSlice, dict(axis=2, orientation='RAS'))
    own = predictor_of(three_classes, load, (NormalizeVolume, dict(channels=[T1])))
    assert own.pipeline().form.orientation == 'RAS'
