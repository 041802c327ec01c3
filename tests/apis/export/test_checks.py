import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.export import checks
from mmkdml.apis.export.graph import ExportedNetwork, network_predictor
from mmkdml.evaluation import CaseTable
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'


@pytest.fixture(scope='module', params=['kdml_v3_demo', 'kdml_v3_demo_slices'])
def source(request, slices, random_source):
    folder, train = slices
    files = dict(data_root=str(folder), ann_file=str(train.with_name('test.csv')))
    data = {f'test_dataloader.dataset.{key}': path for key, path in files.items()}
    return random_source(request.param, 'ensemble', data, size=None)


def exported(source):
    return network_predictor(ExportedNetwork(source))


def test_graph_agrees_with_the_framework(source):
    dataset = checks.dataset_of(source.config, 'test')
    images = list(checks.dataset_images(dataset, 50))
    assert len(images) == len(dataset) == 4
    agreement = checks.compare(exported(source), source, images)
    assert agreement.images == 4
    assert agreement.max_difference < 1e-6
    assert agreement.other_labels == 0


def test_different_graph_raises(source):
    def scores_off(images):
        scores, labels = exported(source)(images)
        return scores + np.float32(2e-4), labels

    def labels_off(images):
        scores, labels = exported(source)(images)
        return scores, 1 - labels

    def undefined(images):
        scores, labels = exported(source)(images)
        return scores * np.nan, labels

    image = [np.zeros((3, 64, 64), np.uint8)]
    for wrong in (scores_off, labels_off, undefined):
        with pytest.raises(ValueError, match='differs from PyTorch on 1 images: scores by up to'):
            checks.compare(wrong, source, image)
    with pytest.raises(ValueError, match=r'expected scores .* for images .* got'):
        checks.compare(lambda images: (images, images), source, image)
    with pytest.raises(ValueError, match='expected at least one image to check, got none'):
        checks.compare(exported(source), source, [])


def test_case_table_equals_that_of_a_test_run(source):
    """mmengine's test loop over the classroom gives equal counts for the ensemble."""
    dataset = checks.dataset_of(source.config, 'test')
    table = checks.case_table(exported(source), source, dataset, 'graph')
    assert set(table['member']) == {'graph'}
    metric = CaseTable()
    metric.dataset_meta = dataset.metainfo
    classroom = MODELS.build(source.config.model).eval()
    classroom.load_state_dict(torch.load(source.checkpoint)['state_dict'])
    for index in range(len(dataset)):
        item = dataset[index]
        samples = classroom.test_step(
            dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
        )
        metric.process(None, [sample.to_dict() for sample in samples])
    metric.evaluate(len(dataset))
    expected = metric.table[metric.table['member'] == 'ensemble'].drop(columns='member')
    found = table.drop(columns='member')
    # Equal but for the rounding of scores.
    pd.testing.assert_frame_equal(
        found.reset_index(drop=True), expected.reset_index(drop=True), rtol=1e-4
    )


def test_masks_are_compared_at_their_original_size():
    scores = np.zeros((1, 2, 2), np.float32)
    scores[0, 0] = 0.9
    labels = (scores[0] > 0.5).astype(np.int64)
    same = checks._at_size(scores, labels, (2, 2), 0.5)
    assert same.tolist() == [[[1, 1], [0, 0]]]
    # Bilinear between 0.9 and 0: 0.9, 0.675, 0.225, 0.
    larger = checks._at_size(scores, labels, (4, 4), 0.5)
    assert larger[0, :, 0].tolist() == [1, 1, 0, 0]
    assert checks._at_size(scores, labels, (4, 4), 0.7)[0, :, 0].tolist() == [1, 0, 0, 0]


def test_images_of_a_folder_pass_the_test_pipeline(tmp_path):
    config = load_config(DEMO / 'kdml_v3_demo.py')
    with pytest.raises(FileNotFoundError, match='No such image or folder: .*nowhere'):
        checks.folder_images(config, tmp_path / 'nowhere', 5)
    with pytest.raises(ValueError, match='No images in '):
        checks.folder_images(config, tmp_path, 5)
    red = np.zeros((64, 64, 3), np.uint8)
    red[:32, :, 0] = 200
    Image.fromarray(red).save(tmp_path / 'a.png')
    Image.fromarray(red[..., 0]).resize((100, 90)).save(tmp_path / 'b.PNG')
    (tmp_path / 'notes.txt').write_text('no image')
    first, second = checks.folder_images(config, tmp_path, 5)
    np.testing.assert_array_equal(first, np.moveaxis(red, 2, 0))
    assert second.shape == (3, 64, 64)
    assert second[:, 0, 0].tolist() == [200, 200, 200]
    assert len(list(checks.folder_images(config, tmp_path, 1))) == 1
    (tmp_path / 'a.png').write_bytes(b'broken')
    with pytest.raises(ValueError, match='a.png: unreadable image'):
        list(checks.folder_images(config, tmp_path, 5))


def test_images_of_a_data_set_are_evenly_spaced_rgb():
    bgr = [torch.full((3, 2, 2), i, dtype=torch.uint8) for i in range(10)]
    for one in bgr:
        one[0] = 99
    found = list(checks.dataset_images([dict(inputs=one) for one in bgr], 4))
    assert [int(one[0, 0, 0]) for one in found] == [0, 3, 6, 9]
    assert all((one[2] == 99).all() for one in found)
    for wrong in (torch.zeros(3, 2, 2, dtype=torch.int64), torch.zeros(4, 2, 2).double()):
        with pytest.raises(ValueError, match=r'images of uint8, uint16, int16, float32, got \('):
            list(checks.dataset_images([dict(inputs=wrong)], 1))


@pytest.mark.parametrize('channels', [1, 2, 3, 4])
def test_three_channels_are_rgb_and_others_keep_their_order(channels):
    pixels = torch.arange(channels, dtype=torch.uint8)[:, None, None].expand(channels, 2, 2)
    (image,) = checks.dataset_images([dict(inputs=pixels)], 1)
    expected = [2, 1, 0] if channels == 3 else list(range(channels))
    assert image[:, 0, 0].tolist() == expected


def test_missing_data_set_raises():
    config = Config(dict(test_dataloader=None))
    with pytest.raises(ValueError, match='No val_dataloader in .* Pass a folder of images'):
        checks.dataset_of(config, 'val')


def test_latencies_are_interleaved_medians(monkeypatch):
    # After a warm-up, a takes 1, 9 and 2 seconds, b takes 2, 10 and 3.
    clock, called = iter([0, 7, 0, 7, 0, 1, 10, 12, 20, 29, 30, 40, 40, 42, 50, 53]), []
    monkeypatch.setattr(time, 'perf_counter', lambda: next(clock))
    answers = {name: lambda image, name=name: called.append((name, image.shape)) for name in 'ab'}
    times = checks.latencies(answers, (3, 4, 6), rounds=3)
    assert times == dict(a=2000, b=3000)
    assert called == [('a', (1, 3, 4, 6)), ('b', (1, 3, 4, 6))] * 4
