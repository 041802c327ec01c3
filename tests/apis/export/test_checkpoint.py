import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmpretrain.apis import ImageClassificationInferencer, get_model
from mmseg.apis import MMSegInferencer
from safetensors import safe_open

from mmkdml.apis import load_config
from mmkdml.apis.export.checkpoint import checkpoint_predictor, plain_config, write_checkpoint
from mmkdml.apis.export.checks import compare, framework_predictor
from mmkdml.apis.prediction.predictor import load
from mmkdml.registry import DATASETS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
META = dict(classes=('without', 'with'), palette=[[0, 0, 0], [255, 0, 0]])
IMAGE = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
MOBILENET = dict(
    _delete_=True,
    type='mmkdml.models.PretrainedTIMMBackbone',
    model_name='mobilenetv1_100',
    pretrained=True,
)
RESNET = dict(
    _delete_=True, type='mmseg.models.backbones.ResNet', depth=18, stem_channels=8, base_channels=8
)


def stock_head(in_channels):
    return dict(
        _delete_=True,
        type='mmseg.models.decode_heads.FCNHead',
        in_channels=in_channels,
        channels=8,
        in_index=-1,
        num_convs=1,
        num_classes=2,
        out_channels=1,
        threshold=0.5,
        loss_decode=dict(type='mmkdml.models.FocalDiceLoss'),
    )


# Config, its options and what is exported; all but the last are made of parts of the frameworks.
EXPORTS = dict(
    resnet=('kdml_v3_demo_slices', {}, 'student_2'),
    mobilenet=(
        'student_demo_slices',
        {'model.backbone': MOBILENET, 'model.head.in_channels': 1024},
        'model',
    ),
    resnet_segmentor=(
        'student_demo',
        {'model.backbone': RESNET, 'model.decode_head': stock_head(64)},
        'model',
    ),
    mobilenet_segmentor=(
        'student_demo',
        {
            'model.backbone': dict(MOBILENET, features_only=True),
            'model.decode_head': stock_head(1024),
        },
        'model',
    ),
    unet=('kdml_v3_demo', {}, 'student_1'),
)

# Runs without mmkdml and without its workaround for a CUDA build of torchvision
# with a CPU build of torch.
WITHOUT_MMKDML = """
import importlib.abc, json, pathlib, sys, torch
class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] == 'mmkdml':
            raise ModuleNotFoundError("No module named 'mmkdml'", name='mmkdml')
sys.meta_path.insert(0, Blocker())
try:
    import torchvision
except RuntimeError:
    library = torch.library.Library('torchvision', 'DEF')
    library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
    library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
import mmengine
from mmengine.registry import DefaultScope
from mmpretrain.apis import ImageClassificationInferencer, get_model
from mmseg.apis import inference_model, init_model
image, errors = sys.argv[1], {}
for folder in map(pathlib.Path, sys.argv[2:]):
    (path,) = folder.glob('*.py')
    checkpoint = str(path.with_suffix('.pth'))
    try:
        config = mmengine.Config.fromfile(path)
    except Exception as error:
        errors[folder.name] = f'{type(error).__name__}: {error}'
        continue
    weights = torch.load(checkpoint, weights_only=True)['state_dict']
    if config.default_scope == 'mmseg':
        network = init_model(config, checkpoint, 'cpu')
        network.load_state_dict(weights, strict=True)
        scores = inference_model(network, image).seg_logits.data
        assert network.dataset_meta['classes'] == ('without', 'with')
    else:
        inferencer = ImageClassificationInferencer(config, pretrained=checkpoint, device='cpu')
        inferencer.model.load_state_dict(weights, strict=True)
        (answer,) = inferencer(image)
        scores = torch.from_numpy(answer['pred_scores'])
        assert answer['pred_class'] in ('without', 'with')
    torch.save(scores, folder / 'scores.pt')
assert not any(name.partition('.')[0] == 'mmkdml' for name in sys.modules)
print(json.dumps(errors))
"""


@pytest.fixture(scope='module')
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp('image') / 'image.png'
    cv2.imwrite(str(path), IMAGE[..., ::-1])
    return path


@pytest.fixture(scope='module')
def written(random_source, tmp_path_factory):
    """Return the source, config file and needs of each export."""
    written, root = {}, tmp_path_factory.mktemp('exports')
    for name, (config, options, what) in EXPORTS.items():
        (root / name).mkdir()
        source = random_source(config, what, options, META)
        written[name] = (source, *write_checkpoint(source, root / name))
    return written


@pytest.fixture(scope='module')
def without_mmkdml(written, image):
    """Run the exports without mmkdml, which writes their scores; return errors by config."""
    folders = [path.parent for _, path, _ in written.values()]
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMKDML, image, *folders],
        capture_output=True,
        text=True,
        check=False,
        cwd=image.parent,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize('name', [name for name in EXPORTS if name != 'unet'])
def test_stock_networks_do_not_need_mmkdml(name, written, without_mmkdml):
    source, path, needs = written[name]
    assert needs == ()
    assert 'mmkdml' not in path.read_text()
    assert name not in without_mmkdml
    expected = framework_predictor(source)(np.moveaxis(IMAGE, 2, 0)[None].copy())[0][0]
    found = torch.load(path.with_name('scores.pt'), weights_only=True)
    assert found.numpy().shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_unet_names_the_classes_it_needs(written, without_mmkdml):
    _, path, needs = written['unet']
    assert needs == ('mmkdml.StemResNet', 'mmkdml.UNetHead')
    assert without_mmkdml.keys() == {'unet'}
    assert re.match(
        "ImportError: Failed to import custom modules from .*'mmkdml.models.backbones.stem_resnet'",
        without_mmkdml['unet'],
    )
    assert not path.with_name('scores.pt').exists()


def test_mmpretrains_inferencer_equals_predict(written, image):
    source, path, _ = written['resnet']
    predictor = load(source.config, source.checkpoint, device='cpu')
    (expected,) = predictor.predict(image, members=['student_2'])
    (found,) = ImageClassificationInferencer(
        str(path), pretrained=str(path.with_suffix('.pth')), device='cpu'
    )(str(image))
    answer = expected.answers['student_2']
    np.testing.assert_allclose(found['pred_scores'], answer.probabilities, atol=1e-6)
    assert found['pred_label'] == answer.label


def test_mmsegs_inferencer_equals_predict(written, tmp_path):
    source, path, _ = written['unet']
    image = tmp_path / 'large.png'  # the image is resized, and its mask resized back
    cv2.imwrite(str(image), cv2.resize(IMAGE, (90, 80)))
    predictor = load(source.config, source.checkpoint, device='cpu')
    (expected,) = predictor.predict(image, members=['student_1'])
    inferencer = MMSegInferencer(str(path), str(path.with_suffix('.pth')), device='cpu')
    found = inferencer(str(image))['predictions']
    mask = expected.answers['student_1'].label
    assert found.shape == (80, 90)
    assert 0 < mask.mean() < 1
    np.testing.assert_array_equal(found, mask)


def test_tools_of_the_frameworks_find_the_data_set(written, tmp_path):
    """get_flops of mmpretrain reads its type, benchmark of mmseg builds it with images only."""
    _, path, _ = written['resnet']
    get_model(str(path))
    (tmp_path / 'a.png').write_bytes(b'')
    for name, data in (('resnet', {}), ('unet', dict(data_prefix=dict(img_path='')))):
        _, path, _ = written[name]
        config = Config.fromfile(path)
        settings = dict(config.test_dataloader.dataset, data_root=str(tmp_path), **data)
        if name == 'resnet':
            for one in META['classes']:
                (tmp_path / one).mkdir()
                (tmp_path / one / 'b.png').write_bytes(b'')
        else:
            settings['img_suffix'] = 'a.png'
        with DefaultScope.overwrite_default_scope(config.default_scope):
            dataset = DATASETS.build(settings)
        assert len(dataset) == (2 if name == 'resnet' else 1)
        assert dataset.metainfo['classes'] == META['classes']


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_exported_checkpoint_can_be_loaded_for_prediction(written, image, suffix):
    source, path, _ = written['resnet']
    predictor = load(path, path.with_suffix(suffix), device='cpu')
    assert predictor.classes == META['classes']
    (found,) = predictor.predict(image)
    expected = framework_predictor(source)(np.moveaxis(IMAGE, 2, 0)[None].copy())[0][0]
    np.testing.assert_allclose(found.answers['model'].probabilities, expected, atol=1e-6)


def test_files_contain_only_weights(written):
    source, path, _ = written['unet']
    assert sorted(one.suffix for one in path.parent.glob('kdml*')) == [
        '.pth',
        '.py',
        '.safetensors',
    ]
    content = torch.load(path.with_suffix('.pth'), weights_only=True)
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta'] == dict(dataset_meta=META)
    with safe_open(path.with_suffix('.safetensors'), 'pt') as file:
        safe = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert {key: json.loads(text) for key, text in file.metadata().items()} == dict(
            META, classes=['without', 'with']
        )
    expected = source.members['student_1'].state_dict()
    for weights in (content['state_dict'], safe):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], value) for key, value in expected.items())
    text = path.read_text()
    for word in ('teacher', 'Pretrained', 'FocalDice', 'LoadBinaryMask', 'optim', 'data/'):
        assert word not in text


def test_config_of_the_teacher_names_its_block(random_source, tmp_path):
    source = random_source('kdml_v3_demo_slices', 'teacher')
    path, needs = write_checkpoint(source, tmp_path)
    assert needs == ('mmkdml.ConvBlockNeck',)
    written = Config.fromfile(path)
    assert written.custom_imports.imports == ['mmkdml.models.necks.conv_block_neck']
    assert written.model.data_preprocessor.to_rgb is True


def test_written_weights_are_loaded_strictly(written, tmp_path):
    """The preprocessing of the written config is used, too."""
    source, path, _ = written['unet']
    path = Path(shutil.copytree(path.parent, tmp_path / 'copy')) / path.name
    images = [np.moveaxis(IMAGE, 2, 0).copy()]
    assert compare(checkpoint_predictor(path, source), source, images).max_difference == 0
    content = torch.load(path.with_suffix('.pth'), weights_only=True)
    del content['state_dict']['decode_head.conv_seg.bias']
    torch.save(content, path.with_suffix('.pth'))
    with pytest.raises(RuntimeError, match='Missing key.*decode_head.conv_seg.bias'):
        checkpoint_predictor(path, source)


def test_classes_of_other_packages_are_named(random_source):
    source = random_source('student_demo_slices', 'model')
    source.config.model.neck = dict(type='torchvision.ops.Permute', dims=[0, 1, 2, 3])
    _, needs = plain_config(source)
    assert needs == ('torchvision.Permute',)


def test_ensemble_raises(random_source, tmp_path):
    with pytest.raises(ValueError, match='Ensembles are not supported by MMPretrain'):
        write_checkpoint(random_source('kdml_v3_demo', 'ensemble'), tmp_path)


@pytest.mark.parametrize('top_level', [False, True])
def test_member_is_written_with_its_own_preprocessing(random_source, tmp_path, top_level):
    config = load_config(DEMO / 'kdml_v3_demo.py')
    shared = dict(config.model.data_preprocessor)
    for member in (config.model.teacher, *config.model.students):
        member.pop('data_preprocessor', None)
    config.model.students[1].data_preprocessor = dict(
        shared, type='mmseg.SegDataPreProcessor', mean=[1.0, 2.0, 3.0]
    )
    if top_level:
        config.data_preprocessor = config.model.pop('data_preprocessor')
    images = np.random.default_rng(0).integers(256, size=(1, 3, 64, 64), dtype=np.uint8)
    for name, mean in (('student_1', shared['mean']), ('student_2', [1.0, 2.0, 3.0])):
        source = random_source(config, name)
        path, _ = write_checkpoint(source, tmp_path)
        assert list(Config.fromfile(path).model.data_preprocessor.mean) == mean
        ends = checkpoint_predictor(path, source)(images), framework_predictor(source)(images)
        np.testing.assert_allclose(ends[0][0], ends[1][0], atol=1e-5)
