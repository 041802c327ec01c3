from pathlib import Path

import numpy as np
import pytest

from mmkdml.apis import ReadOptions
from mmkdml.apis.prediction import Predictor
from mmkdml.apis.view.sources import FileCases, SplitCases
from mmkdml.datasets.images import read_binary_mask, read_image
from mmkdml.datasets.splits.split_files import read_split


def same(view, prediction):
    np.testing.assert_array_equal(view.image, prediction.image)
    assert view.answers.keys() == prediction.answers.keys()
    for name, answer in prediction.answers.items():
        np.testing.assert_array_equal(view.answers[name].label, answer.label)
        np.testing.assert_allclose(view.answers[name].scores, answer.scores, atol=1e-5)


def test_files_as_predicted(segmentor, pictures):
    cases = FileCases(segmentor, [pictures], ReadOptions())
    assert list(cases.groups) == ['one', 'stack', 'sub/two']
    assert not cases.has_truth
    for name in cases.groups:
        views = list(cases.load(name))
        assert len(views) == (3 if name == 'stack' else 1)
        file = next(pictures.glob(f'{name}.*'))
        for view, prediction in zip(views, segmentor.predict(file), strict=True):
            same(view, prediction)
            assert view.truth is None


def test_unreadable_and_missing_files(segmentor, pictures):
    (pictures / 'one.png').write_bytes(b'broken')
    cases = FileCases(segmentor, [pictures], ReadOptions())
    with pytest.raises(ValueError, match=r'one\.png'):
        list(cases.load('one'))
    assert len(list(cases.load('stack'))) == 3
    with pytest.raises(FileNotFoundError, match=r'none\.png'):
        FileCases(segmentor, [pictures / 'none.png'], ReadOptions())


@pytest.mark.parametrize('name', ['kdml_v3_demo', 'kdml_v3_demo_slices'])
def test_split_with_its_truth(split_predictor, slices, name):
    source, split = slices
    predictor = split_predictor(name)
    cases = SplitCases(predictor)
    assert cases.has_truth
    rows = {row.id: row for row in read_split(split)}
    assert list(cases.groups) == list(rows)
    for name in list(rows)[:3]:
        (view,) = cases.load(name)
        row = rows[name]
        assert cases.groups[name] == row.group
        path = Path(source, row.path)
        np.testing.assert_array_equal(view.image, read_image(path))
        same(view, *predictor.predict(path))
        if predictor.task == 'segmentation':
            np.testing.assert_array_equal(view.truth, read_binary_mask(Path(source, row.mask)))
        else:
            assert view.truth == int(row.label)


def test_slices_of_a_volume_are_one_case(split_predictor, monkeypatch):
    predictor = split_predictor()
    plain = SplitCases(predictor)
    dataset = type(plain._dataset)
    original = dataset.get_data_info
    ids = list(plain.groups)

    def info(self, index):
        found = original(self, index)
        place = ids.index(found['id'])
        return dict(found, case='abc'[place % 3], slice=-place)

    monkeypatch.setattr(dataset, 'get_data_info', info)
    cases = SplitCases(predictor)
    assert sorted(cases.groups) == [*'abc']
    views = list(cases.load('b'))
    expected = [next(iter(plain.load(name))) for name in ids[1::3][::-1]]
    for view, other in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.image, other.image)
        np.testing.assert_array_equal(view.truth, other.truth)


def test_run_without_test_split(segmentor):
    config = segmentor.config.copy()
    config.test_dataloader = None
    with pytest.raises(ValueError, match='test_dataloader: expected the test split.*Pass images'):
        SplitCases(Predictor(segmentor.model, config))
