"""Text configs of stock networks and data sets, with default scope or prefix, in every tool."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import steps
from mmkdml.apis import load_config
from mmkdml.registry import MODELS

TEXT = """
{scope}
norm_cfg = dict(type='BN', requires_grad=True)
preprocessor = dict(
    type='{prefix}SegDataPreProcessor', mean=[123.0] * 3, std=[58.0] * 3, bgr_to_rgb=True,
    size=(64, 64), pad_val=0, seg_pad_val=255,
)
network = dict(
    type='{prefix}EncoderDecoder',
    data_preprocessor=preprocessor,
    backbone=dict(
        type='{prefix}ResNetV1c', depth=18, base_channels=4, stem_channels=4, norm_cfg=norm_cfg,
        strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4),
    ),
    decode_head=dict(
        type='{prefix}FCNHead', in_channels=32, in_index=3, channels=4, num_classes=2,
        norm_cfg=norm_cfg, loss_decode=dict(type='{prefix}CrossEntropyLoss'),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
model = {model}
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='{prefix}LoadAnnotations'),
    dict(type='Resize', scale=(64, 64)),
    dict(type='{prefix}PackSegInputs'),
]
dataset = dict(
    type='{prefix}BaseSegDataset', data_root={root!r}, img_suffix='.png', seg_map_suffix='.png',
    data_prefix=dict(img_path='images', seg_map_path='masks'),
    metainfo=dict(classes=('rest', 'square'), palette=[[0, 0, 0], [255, 0, 0]]),
    pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=True)
)
val_dataloader = test_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False)
)
val_evaluator = test_evaluator = dict(type='{prefix}IoUMetric', iou_metrics=['mIoU'])
train_cfg = dict(by_epoch=True, max_epochs=1)
split_overlap = 'warn'
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
"""
CLASSROOM = """dict(
    type='mmkdml.DiversifiedKDMLDistiller', mode='ml', style='v3', students=[network, network],
    input_size=(64, 64), weights=dict(alpha=(0.5, 0.5), gamma=(0.5, 0.5)),
    data_preprocessor=preprocessor,
)"""


@pytest.fixture(params=['default scope', 'prefix'])
def write(request, tmp_path):
    """Return a function that writes a config, the folder of its run and four images with masks."""
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = np.zeros((64, 64), np.uint8)
        mask[8 + number : 40, 8:40] = 1
        pixels = rng.integers(0, 100, (64, 64, 3)) + 100 * mask[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / 'images' / f'{number}.png')
        Image.fromarray(mask).save(tmp_path / 'masks' / f'{number}.png')

    def make(model):
        scoped = request.param == 'default scope'
        text = TEXT.format(
            scope="default_scope = 'mmseg'" if scoped else '',
            prefix='' if scoped else 'mmseg.',
            model=model,
            root=str(tmp_path),
        )
        run = tmp_path / 'run'
        run.mkdir()
        path = run / 'text.py'
        path.write_text(text)
        config = load_config(path)
        torch.manual_seed(0)
        with_scope = dict(config.model, _scope_='mmseg') if scoped else config.model
        state = MODELS.build(with_scope).state_dict()
        torch.save(dict(state_dict=state, meta=dict(dataset_meta={})), run / 'best_x.pth')
        return path, run

    return make


def test_stock_network(write, tool, tmp_path, capsys):
    path, run = write('network')
    tool('print_classroom', path, experiment=False)
    tool('list_taps', path, '--match', 'backbone.layer?', experiment=False)
    tool('predict', run, tmp_path / 'images', '--out', tmp_path / 'out', experiment=False)
    assert len(list((tmp_path / 'out' / 'masks' / 'model').iterdir())) == 4
    tool('analysis/cka', run, '--pair', 'model', 'model', '--batch-size', 4, experiment=False)
    assert (run / 'analysis' / 'cka' / 'cka.csv').is_file()
    tool(
        'test', path, run / 'best_x.pth', '--work-dir', tmp_path / 'w', '--out', tmp_path / 'x.json'
    )
    assert json.loads((tmp_path / 'x.json').read_text())['mIoU'] >= 0
    with pytest.raises(SystemExit, match=r'x\.json already exists'):
        tool('test', path, run / 'best_x.pth', '--out', tmp_path / 'x.json')


@pytest.mark.slow
@pytest.mark.parametrize('write', ['default scope'], indirect=True)
@pytest.mark.parametrize('form', ['checkpoint', 'torch-export'])
def test_export_of_stock_network_without_cases(write, tool, tmp_path, capsys, form):
    _, run = write('network')
    args = ('export', run, '--what', 'model', '--format', form)
    tool(*args, '--out', tmp_path / 'out', experiment=False)
    captured = capsys.readouterr()
    assert 'quality is not measured: samples of the test set have no id and group' in captured.err
    assert 'Largest difference from PyTorch on 4 images: ' in captured.out
    card = json.loads((tmp_path / 'out' / 'text-model.json').read_text())
    assert card['scores'] == []
    with pytest.raises(SystemExit, match='int8 is not measured: .* have no id and group'):
        tool(*args, '--int8', '--out', tmp_path / 'int8', experiment=False)


@pytest.mark.slow
@pytest.mark.parametrize('write', ['prefix'], indirect=True)
def test_classroom(write, tool, tmp_path, capsys, monkeypatch):
    path, run = write(CLASSROOM)
    tool('print_classroom', path, experiment=False)
    tool('publish', path, run, '--out', tmp_path / 'public', experiment=False)
    assert len(list((tmp_path / 'public').iterdir())) == 2
    # Starts a process for each network; see tests/benchmarks/test_steps.py.
    monkeypatch.setattr(steps, 'peak_memory', lambda *_: 1.0)
    numbers = ('--batch-size', 2, '--rounds', 1)
    tool('benchmark', 'step', path, *numbers, experiment=False)
    options = ['train_dataloader.drop_last=True']
    tool('train', path, '--work-dir', tmp_path / 'trained', options=options)
    assert list((tmp_path / 'trained').glob('epoch_1.pth'))
