"""Prediction with the runs of all folds; see also ``tests/tools/test_predict.py``."""

import copy

import numpy as np
import pytest

from mmkdml.apis import FoldPredictor, find_fold_runs, load_config, predict_files
from mmkdml.apis.prediction.predictor import Predictor


@pytest.fixture
def two(segmentor):
    """A predictor and one with other weights."""
    other = copy.copy(segmentor)
    other.model = copy.deepcopy(segmentor.model)
    for parameter in other.model.parameters():
        parameter.data *= 0.9
    return segmentor, other


def test_scores_are_means_over_the_folds(two, pictures):
    folds = FoldPredictor(two)
    assert folds.members == two[0].members
    for batch in folds.predict(pictures / 'stack.tif', members=['student_1', 'ensemble']):
        for name, answer in batch.answers.items():
            each = [one.predict(pictures / 'stack.tif')[batch.index].answers[name] for one in two]
            mean = np.mean([one.scores for one in each], axis=0)
            np.testing.assert_allclose(answer.scores, mean, rtol=1e-5, atol=1e-6)
            np.testing.assert_array_equal(answer.label, mean[-1] > 0.5)


def test_each_fold_normalizes_with_its_own_statistics(two):
    """As of CT, whose statistics are those of the training part of the fold."""
    images = [np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8)] * 3
    volumes = []
    for index, one in enumerate(two):
        config = copy.deepcopy(one.config)
        pipeline = config.test_dataloader.dataset.pipeline
        channel = dict(
            name='CT', scheme='ct', mean=90.0 + 40 * index, std=50.0, low=0.0, high=220.0
        )
        pipeline.insert(1, dict(type='mmkdml.NormalizeVolume', channels=[channel] * 3))
        volumes.append(Predictor(one.model, config, one.classes, one.checkpoint))
    assert volumes[0].predict(images)[0].answers['ensemble'].scores.std() > 0
    for augment in (False, True):
        each = [one.predict(images, augment=augment, batch_size=2) for one in volumes]
        for place, found in enumerate(FoldPredictor(volumes).predict(images, augment=augment)):
            parts = [one[place].answers['student_1'].scores for one in each]
            assert not np.allclose(*parts)
            scores = found.answers['student_1'].scores
            np.testing.assert_allclose(scores, np.mean(parts, axis=0), rtol=1e-4, atol=1e-5)
    volumes[1].config.test_dataloader.dataset.pipeline[1]['channels'].pop()
    with pytest.raises(ValueError, match='pipeline'):
        FoldPredictor(volumes)


def test_files_record_all_checkpoints(two, pictures, tmp_path):
    one, other = two
    folds = FoldPredictor(two)
    assert folds.checkpoint_sha256 not in (None, one.checkpoint_sha256)
    assert folds.checkpoint_sha256 != FoldPredictor([one, other, one]).checkpoint_sha256
    table = predict_files(folds, pictures / 'one.png', tmp_path / 'out', members=['ensemble'])
    assert len(table) == 1
    # Those of one run are not taken for those of all.
    with pytest.raises(ValueError, match='other settings'):
        predict_files(one, pictures / 'one.png', tmp_path / 'out', members=['ensemble'])


def test_runs_that_do_not_belong_together_raise(predictors, two):
    with pytest.raises(ValueError, match='at least 2 runs, got 1'):
        FoldPredictor(two[:1])
    with pytest.raises(ValueError, match='equal networks and inputs.*\n.*task'):
        FoldPredictor([two[0], predictors['kdml_v3_demo_slices']])
    config = load_config(two[0].config.filename)
    config.test_dataloader.dataset.pipeline.pop(1)
    other = Predictor(two[0].model, config, two[0].classes, two[0].checkpoint)
    with pytest.raises(ValueError, match='pipeline'):
        FoldPredictor([two[0], other])


def test_runs_of_all_folds_are_found(tmp_path):
    assert find_fold_runs(tmp_path / 'none') == find_fold_runs(tmp_path) == []
    for fold in (0, 1, 10):
        (tmp_path / f'fold_{fold}').mkdir()
    with pytest.raises(ValueError, match='fold_0 to fold_10, got none of fold_2, fold_3'):
        find_fold_runs(tmp_path)
    (tmp_path / 'fold_10').rmdir()
    (tmp_path / 'fold_0_1').mkdir()  # a teacher of other folds
    assert find_fold_runs(tmp_path) == [tmp_path / 'fold_0', tmp_path / 'fold_1']
    for name in ('fold_0/seed_0', 'fold_0/seed_3', 'fold_1/seed_3', 'fold_0_1/seed_4'):
        (tmp_path / name).mkdir()
    runs = [tmp_path / f'fold_{fold}' / 'seed_3' for fold in range(2)]
    assert find_fold_runs(tmp_path) == find_fold_runs(str(tmp_path), 3) == runs
    (tmp_path / 'fold_1' / 'seed_0').mkdir()
    for seed in (None, 7):
        with pytest.raises(ValueError, match=rf'have \(0, 3\), got {seed}. Choose it with'):
            find_fold_runs(tmp_path, seed)
    assert find_fold_runs(tmp_path, 0)[1] == tmp_path / 'fold_1' / 'seed_0'
    (tmp_path / 'config.py').touch()  # the folder of a run without folds
    assert find_fold_runs(tmp_path) == []
