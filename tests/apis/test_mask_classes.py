"""Masks of four classes with ignored pixels, and 13 channels: conversion to prediction."""

import json

import numpy as np
import pytest
from mmengine.registry import DefaultScope
from PIL import Image

from mmkdml.analysis.hard_cases import measure_cases
from mmkdml.apis import load, load_config, make_runner
from mmkdml.apis.export.run import export_run
from mmkdml.apis.prediction import predict_files
from mmkdml.datasets import convert_folders
from mmkdml.datasets.class_masks import ClassTable, read_class_mask

CLASSES = ('background', 'liver', 'kidney', 'lesion')
COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0), (0, 0, 200))
IGNORED = (255, 255, 255)
CHANNELS = 13
CONFIG = """
_base_ = ['mmkdml::_base_/datasets/segmentation.py', 'mmkdml::_base_/schedules/adam_30e.py']
default_scope = 'mmseg'
train_cfg = dict(max_epochs=1)
load = dict(type='mmkdml.LoadMultiChannelImage', channels=13)
flip = dict(type='mmkdml.AlbumentationsTransform', transforms=[dict(type='HorizontalFlip')])
resize = dict(type='mmcv.Resize', scale=(16, 16))
mask, pack = dict(type='mmkdml.LoadClassMask'), {{_base_.pack}}
loaders = dict(num_workers=0, persistent_workers=False, batch_size=4)


def settings(part, pipeline):
    return dict(loaders, dataset=dict(
        data_root=r'ROOT', ann_file=rf'ROOT/splits/{part}.csv', pipeline=pipeline,
        image_cache=dict(dir=r'ROOT/cache')))


train_dataloader = settings('train', [load, mask, resize, flip, pack])
val_dataloader = settings('val', [load, resize, mask, pack])
test_dataloader = settings('test', [load, resize, mask, pack])
preprocessor = dict(type='mmkdml.MultiChannelSegDataPreProcessor', mean=[0.0] * 13,
                    std=[50.0] * 13, size=(16, 16))
member = dict(
    type='mmseg.EncoderDecoder', data_preprocessor=preprocessor, test_cfg=dict(mode='whole'),
    backbone=dict(
        type='mmseg.UNet', in_channels=13, base_channels=4, num_stages=2, strides=(1, 1),
        enc_num_convs=(1, 1), dec_num_convs=(1,), downsamples=(True,), enc_dilations=(1, 1),
        dec_dilations=(1,)),
    decode_head=dict(
        type='mmseg.FCNHead', in_channels=4, in_index=1, channels=4, num_convs=1, num_classes=4,
        loss_decode=dict(type='mmkdml.FocalDiceLoss')))
model = dict(
    type='mmkdml.DiversifiedKDMLDistiller', mode='kdml', style='v1', teacher=member,
    students=[member, member], input_size=(16, 16), data_preprocessor=preprocessor,
    weights=dict(alpha=(1, 1), beta=(1, 1), gamma=(1, 1)))
del load, flip, resize, mask, loaders, settings, preprocessor, member
"""


def paint(place):
    """Return a mask (16, 12) with every class and an ignored row."""
    mask = np.zeros((16, 12), int)
    mask[1:6, 1:6], mask[7:12, 4:9], mask[12:15, place % 6 : place % 6 + 3] = 1, 2, 3
    mask[0] = -1
    return mask


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Convert and train; return the folder of the run."""
    root = tmp_path_factory.mktemp('organs')
    (root / 'images').mkdir()
    (root / 'masks').mkdir()
    rng = np.random.default_rng(0)
    for place in range(12):
        mask = paint(place)
        image = rng.integers(0, 40, (16, 12, CHANNELS)).astype(np.int16)
        for label in (1, 2, 3):
            image[..., 4 * label][mask == label] += 200
        np.save(root / 'images' / f'{place:02}.npy', image)
        Image.fromarray(np.uint8([*COLORS, IGNORED])[mask]).save(root / 'masks' / f'{place:02}.png')
    (root / 'classes.json').write_text(json.dumps(dict(zip(CLASSES, COLORS, strict=True))))
    options = dict(classes='classes.json', ignore=['255,255,255'], channels=CHANNELS)
    convert_folders(root, root / 'splits', 'images', 'masks', ratios=(50, 25, 25), **options)
    (root / 'organs.py').write_text(CONFIG.replace('ROOT', str(root)))
    runner = make_runner(load_config(root / 'organs.py', work_dir=root / 'run'))
    runner.train()
    DefaultScope._instance_dict.clear()
    return root / 'run'


def test_metrics_have_every_class_and_leave_out_ignored_pixels(run):
    config = load_config(run)
    config.update(load_from=str(run / 'epoch_1.pth'), custom_hooks=[])  # figures take seconds
    runner = make_runner(config, train=False)
    metrics = runner.test()
    DefaultScope._instance_dict.clear()
    for name in ('teacher', 'student_1', 'student_2', 'ensemble'):
        of_classes = [metrics[f'{name}/foreground/IoU_{one}'] for one in CLASSES[1:]]
        assert metrics[f'{name}/foreground/IoU'] == pytest.approx(np.nanmean(of_classes))
        assert 0 <= metrics[f'{name}/calibration/ECE'] <= 100
    assert any('agreement' in key for key in metrics)
    # The IoU again, from the files of masks and the predictions, without our readers and metrics.
    predictor, dataset = load(run, device='cpu'), runner.test_dataloader.dataset
    counts = np.zeros((2, 4))
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        truth = paint(int(info['id']))
        (found,) = predictor.predict(info['img_path'])
        label = found.answers['student_1'].label
        for one in range(4):
            own, true = (label == one) & (truth >= 0), truth == one
            counts[:, one] += (own & true).sum(), (own | true).sum()
    expected = 100 * counts[0, 1:] / counts[1, 1:]
    found = [metrics[f'student_1/foreground/IoU_{one}'] for one in CLASSES[1:]]
    assert found == pytest.approx(expected)
    cases = measure_cases(predictor.model, runner.test_dataloader)
    assert (cases['region_px'] == [(paint(int(one)) > 0).sum() for one in cases['id']]).all()


def test_predicted_masks_are_masks_of_the_data_set(run, tmp_path):
    predictor = load(run, device='cpu')
    assert predictor.classes == CLASSES
    image = run.parent / 'images' / '00.npy'
    table = predict_files(predictor, image, tmp_path)
    assert list(table)[3:] == [f'pixels_{one}' for one in CLASSES[1:]]
    (found,) = predictor.predict(image)
    for name in predictor.members:
        mask = read_class_mask(tmp_path / 'masks' / name / '00.png', ClassTable(COLORS))
        np.testing.assert_array_equal(mask, found.answers[name].label)
    assert (tmp_path / 'overlays' / '00.png').stat().st_size


def test_plain_checkpoint_agrees(run, tmp_path):
    result = export_run(run, tmp_path / 'out', what='student_1', form='checkpoint', check=2)
    assert result.exported.agreement.max_difference < 1e-4
