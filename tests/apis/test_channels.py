"""Images with 1, 2 and 4 channels through conversion, training, prediction and export."""

import numpy as np
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.registry import DefaultScope
from PIL import Image
from torch import nn

from mmkdml.analysis.grad_cam import cam_rows
from mmkdml.apis import load, load_config, make_runner
from mmkdml.apis.export.run import export_run
from mmkdml.apis.prediction import predict_files
from mmkdml.datasets import convert_folders
from mmkdml.datasets.channels import read_picture
from mmkdml.inspection import describe, format_taps, inspect_config, member_complexities
from mmkdml.registry import MODELS

DTYPES = {1: 'uint8', 2: 'uint16', 4: 'float32'}
CASES = [(task, channels) for task in ('classification', 'segmentation') for channels in DTYPES]


@MODELS.register_module()
class OneConvolution(BaseModule):
    """Backbone of one convolution at stride 4, which is exported fast."""

    def __init__(self, in_channels, width):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, width, 4, stride=4)

    def forward(self, x):
        return (self.conv(x).relu(),)


CONFIG = """
default_scope = '{scope}'
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1))
randomness = dict(seed=0)
load = dict(type='mmkdml.LoadMultiChannelImage', channels={channels})
flip = dict(type='mmkdml.AlbumentationsTransform', transforms=[
    dict(type='HorizontalFlip', p=0.5), dict(type='Affine', rotate=(-20, 20), p=1)])
train_pipeline = [load, {masks} flip, {resize}, {pack}]
test_pipeline = [load, {resize}, {masks} {pack}]


def loader(part, pipeline):
    return dict(
        batch_size=3, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
        dataset=dict(
            type='mmkdml.{dataset}', data_root=r'{root}',
            ann_file=r'{root}/splits/' + part + '.csv', pipeline=pipeline,
            test_mode=part != 'train', image_cache=dict(dir=r'{root}/cache'),
            metainfo=dict(classes=('a', 'b'))))


def member(width):
    return dict(
        type='{framework}', backbone=dict(type='mmkdml.OneConvolution', in_channels={channels},
        width=width), {parts})


train_dataloader = loader('train', train_pipeline)
val_dataloader, test_dataloader = loader('val', test_pipeline), loader('test', test_pipeline)
val_evaluator = test_evaluator = dict(type='mmkdml.MemberMetrics', metric=dict({metric}))
model = dict(
    type='mmkdml.DiversifiedKDMLDistiller', mode='kdml', style='v3', teacher=member(6),
    students=[member(4), member(4)], input_size=(64, 64),
    projectors={{'teacher->student_1': dict(type='mmkdml.ConvProjector')}},
    data_preprocessor=dict(type='{preprocessor}', {size}mean={mean}, std={std}),
    weights=dict(alpha=(1, 1), beta=(1, 1), gamma=(1, 1)))
del loader, member, load, flip
"""
TASKS = dict(
    classification=dict(
        scope='mmpretrain',
        framework='mmpretrain.ImageClassifier',
        parts="neck=dict(type='mmpretrain.GlobalAveragePooling'), head=dict("
        "type='mmpretrain.LinearClsHead', num_classes=2, in_channels=width)",
        preprocessor='mmpretrain.ClsDataPreprocessor',
        size='',
        masks='',
        pack="dict(type='mmpretrain.PackInputs', meta_keys=('id', 'group', 'img_path'))",
        dataset='SplitClassificationDataset',
        metric="type='mmpretrain.Accuracy', topk=1",
    ),
    segmentation=dict(
        scope='mmseg',
        framework='mmseg.EncoderDecoder',
        parts="decode_head=dict(type='mmseg.FCNHead', in_channels=width, channels=4, num_convs=1, "
        "num_classes=2, in_index=0), test_cfg=dict(mode='whole')",
        preprocessor='mmkdml.MultiChannelSegDataPreProcessor',
        size='size=(64, 64), ',
        masks="dict(type='mmkdml.LoadBinaryMask'),",
        pack="dict(type='mmseg.PackSegInputs', meta_keys=('id', 'group', 'img_path', 'ori_shape', "
        "'img_shape'))",
        dataset='SplitSegDataset',
        metric="type='mmkdml.ForegroundIoU'",
    ),
)


def write_images(folder, task, channels):
    """Write arrays with a bright square in the last channel, as classes or with masks."""
    rng = np.random.default_rng(channels)
    for index in range(12):
        array = rng.integers(0, 100, (64, 64, channels)).astype(DTYPES[channels])
        mask = np.zeros((64, 64), np.uint8)
        mask[16:48, 8 + index : 32 + index] = 255 * (index % 2 or task == 'segmentation')
        array[..., -1][mask > 0] += 100
        parent = folder / ('images' if task == 'segmentation' else 'ab'[index % 2])
        parent.mkdir(parents=True, exist_ok=True)
        np.save(parent / f'{index}.npy', array)
        if task == 'segmentation':
            (folder / 'masks').mkdir(exist_ok=True)
            Image.fromarray(mask).save(folder / 'masks' / f'{index}.png')


def convert(folder, task, channels):
    masks = dict(images='images', masks='masks') if task == 'segmentation' else {}
    ratios = (50, 25, 25)
    convert_folders(folder, folder / 'splits', **masks, channels=channels, ratios=ratios)


@pytest.fixture(scope='module', params=CASES, ids=str)
def run(request, tmp_path_factory):
    """Train a classroom for two steps; return the folder of the run, its images and the case."""
    task, channels = request.param
    folder = tmp_path_factory.mktemp('channels')
    write_images(folder, task, channels)
    convert(folder, task, channels)
    text = CONFIG.format(
        **TASKS[task],
        channels=channels,
        root=folder,
        resize="dict(type='mmcv.Resize', scale=(64, 64))",
        mean=[10.0 * (index + 1) for index in range(channels)],
        std=[50.0 + index for index in range(channels)],
    )
    (folder / 'config.py').write_text(text)
    config = load_config(folder / 'config.py', work_dir=folder / 'run')
    make_runner(config).train()
    DefaultScope._instance_dict.clear()
    images = sorted((folder / ('images' if task == 'segmentation' else 'a')).glob('*.npy'))
    return folder / 'run', images, task, channels


def softmax_of(model, name, path, channels):
    """Compute a member's probabilities from the file, without any of our readers."""
    array = torch.from_numpy(np.load(path).astype(np.float32)).permute(2, 0, 1)
    steps = torch.arange(channels)[:, None, None]
    inputs = ((array - 10 * (steps + 1)) / (50 + steps))[None]
    with torch.no_grad():
        logits = model.members[name](inputs, mode='tensor')
    if logits.ndim == 4:
        size = dict(size=inputs.shape[2:], mode='bilinear', align_corners=False)
        logits = nn.functional.interpolate(logits, **size)
    return logits.softmax(dim=1)[0]


def test_prediction_of_files_and_arrays(run):
    folder, images, task, channels = run
    predictor = load(folder, device='cpu')
    assert predictor.channels == channels
    found = predictor.predict(images[0].parent)
    assert len(found) == len(images)
    (of_array,) = predictor.predict(np.load(images[0]))
    for name in ('student_1', 'student_2', 'teacher'):
        expected = softmax_of(predictor.model, name, images[0], channels).numpy()
        np.testing.assert_allclose(found[0].answers[name].scores, expected, atol=1e-5)
        np.testing.assert_allclose(of_array.answers[name].scores, expected, atol=1e-5)
    assert found[0].image.shape == (64, 64, 3)
    views = predictor.predict(images[:1], augment=True)  # flipped, too
    assert views[0].answers['student_1'].scores.shape == of_array.answers['student_1'].scores.shape
    with pytest.raises(ValueError, match=rf'expected \(H, W, {channels}\) .*got \(32, 32, 5\)'):
        predictor.predict(np.zeros((32, 32, 5), 'uint8'))


def test_weights_were_trained_and_all_images_were_evaluated(run):
    folder, _, _, channels = run
    predictor = load(folder, device='cpu')
    assert predictor.model.members.student_1.backbone.conv.in_channels == channels
    losses = [
        line for path in folder.glob('*/vis_data/*.json') for line in path.read_text().splitlines()
    ]
    assert any('"student_2.loss_from_teacher' in line for line in losses)
    assert all('NaN' not in line for line in losses)


def test_listings_use_images_of_these_channels(run):
    folder, _, task, channels = run
    inspection = inspect_config(load_config(folder.parent / 'config.py'))
    # The convolution at 16 x 16 positions, and the head: a linear layer or three convolutions.
    head = 4 * 2 if task == 'classification' else (4 * 4 * 9 + 8 * 4 * 9 + 4 * 2) * 256
    sizes = {size.name: size.multiply_adds for size in member_complexities(inspection)}
    assert sizes['student_1'] == channels * 16 * 4 * 256 + head
    assert 'backbone.conv' in format_taps(inspection)
    assert 'student_1' in describe(inspection)


def test_files_and_figures(run, tmp_path):
    folder, images, task, channels = run
    predict_files(load(folder, device='cpu'), images[:2], tmp_path)
    assert len((tmp_path / 'predictions.csv').read_text().splitlines()) == 1 + 2 * 4
    if task == 'classification':
        if channels == 4:  # Grad-CAM
            config = load_config(folder.parent / 'config.py')
            loader = make_runner(config, train=False).build_dataloader(config.test_dataloader)
            cells = cam_rows(load(folder, device='cpu').model, loader)[0]
            path = loader.dataset.get_data_info(0)['img_path']
            np.testing.assert_array_equal(cells['image'].image, read_picture(path))
            assert cells['teacher'].heat.shape == (64, 64)
        return
    size = Image.open(tmp_path / 'masks' / 'student_1' / f'{images[0].stem}.png').size
    assert size == (64, 64)
    assert (tmp_path / 'overlays' / f'{images[0].stem}.png').stat().st_size
    gray = read_picture(images[0])
    assert (gray[..., 0] == gray[..., 2]).all()
    if channels != 4:  # drawing takes seconds
        return
    config = load_config(folder.parent / 'config.py', work_dir=tmp_path / 'test')
    hooks = [dict(type='mmkdml.PanelHook', num=2)]
    config.update(load_from=str(folder / 'epoch_1.pth'), custom_hooks=hooks)
    make_runner(config, train=False).test()
    assert (tmp_path / 'test' / 'panels' / 'panels.png').stat().st_size


def test_only_8_bit_images_are_cached(run):
    folder, _, task, channels = run
    packs = [path.stat().st_size for path in (folder.parent / 'cache').glob('*.pack')]
    pixels = 64 * 64 * (channels if DTYPES[channels] == 'uint8' else 0)
    # A row of the table has 72 bytes; the training set has 6 images.
    assert 6 * (72 + pixels) in packs


def test_plain_checkpoint_keeps_the_loader_and_agrees(run, tmp_path):
    folder, _, task, channels = run
    result = export_run(folder, tmp_path / 'out', what='student_1', form='checkpoint', check=2)
    assert result.exported.agreement.max_difference < 1e-4
    assert 'mmkdml.LoadMultiChannelImage' in result.exported.needs
    (path,) = (tmp_path / 'out').glob('*.py')
    assert f'channels={channels}' in path.read_text()


@pytest.mark.slow
def test_exported_onnx_takes_the_channels_of_the_files(run, tmp_path):
    folder, images, task, channels = run
    runtime = pytest.importorskip('onnxruntime')
    result = export_run(folder, tmp_path / 'out', what='student_1', check=2)
    assert result.exported.agreement.max_difference < 1e-4
    (path,) = (tmp_path / 'out').glob('*.onnx')
    session = runtime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    batch = np.load(images[0]).transpose(2, 0, 1)[None]
    scores, _ = session.run(None, dict(images=batch))
    expected = softmax_of(load(folder, device='cpu').model, 'student_1', images[0], channels)
    np.testing.assert_allclose(scores[0], expected.numpy(), atol=1e-4)
    assert batch.dtype == DTYPES[channels]
    (card,) = (tmp_path / 'out').glob('*.md')
    contract = f'(N, {channels}, H, W), channels in the order of the files, {DTYPES[channels]}'
    assert contract in ' '.join(card.read_text().split())
