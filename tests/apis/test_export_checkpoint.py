import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from safetensors.torch import load_file

from mmkdml.analysis import inspect_config
from mmkdml.apis import load_config
from mmkdml.apis.export_checkpoint import write_checkpoint
from mmkdml.apis.export_checks import framework_answers
from mmkdml.apis.export_source import load_source

CONFIGS = Path(__file__).parents[2] / 'configs'
META = dict(classes=('without', 'with'), palette=[[0, 0, 0], [255, 0, 0]])
MOBILENET = dict(
    _delete_=True,
    type='mmkdml.models.PretrainedTIMMBackbone',
    model_name='mobilenetv1_100',
    pretrained=True,
)
STOCK_SEGMENTOR = {
    'model.backbone': dict(
        _delete_=True, type='mmseg.models.backbones.ResNet', depth=18, stem_channels=8,
        base_channels=8,
    ),
    'model.decode_head': dict(
        _delete_=True, type='mmseg.models.decode_heads.FCNHead', in_channels=64, channels=8,
        in_index=3, num_convs=1, num_classes=2, out_channels=1, threshold=0.5,
        loss_decode=dict(type='mmkdml.models.FocalDiceLoss'),
    ),
}  # fmt: skip

# A fresh environment knows nothing of mmkdml, nor does what it does for a torchvision of CUDA
# beside a torch of the CPU.
WITHOUT_MMKDML = """
import sys, importlib.abc, torch
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
import numpy, mmengine
from mmengine.registry import init_default_scope
config, checkpoint, image, out = sys.argv[1:]
cfg = mmengine.Config.fromfile(config)
weights = torch.load(checkpoint, weights_only=True)
if cfg.default_scope == 'mmseg':
    from mmseg.apis import inference_model, init_model
    network = init_model(cfg, checkpoint, 'cpu')
    network.load_state_dict(weights['state_dict'], strict=True)
    scores = inference_model(network, image).seg_logits.data.numpy()
    assert network.dataset_meta['classes'] == ('without', 'with')
else:
    from mmpretrain.apis import ImageClassificationInferencer
    inferencer = ImageClassificationInferencer(cfg, pretrained=checkpoint, device='cpu')
    inferencer.model.load_state_dict(weights['state_dict'], strict=True)
    (answer,) = inferencer(image)
    scores = answer['pred_scores']
    assert answer['pred_class'] in ('without', 'with')
assert not any(name.partition('.')[0] == 'mmkdml' for name in sys.modules)
numpy.save(out, scores)
"""


def source_of(folder, config, options=None, what='model'):
    torch.manual_seed(0)
    config = load_config(CONFIGS / f'{config}.py', options)
    inspection = inspect_config(config)
    state = (inspection.distiller or inspection.members['model']).state_dict()
    run = dict(state_dict=state, optimizer=dict(state={}), meta=dict(dataset_meta=META, cfg='x'))
    torch.save(run, folder / 'run.pth')
    return load_source(config, folder / 'run.pth', what)


@pytest.mark.slow
@pytest.mark.parametrize(
    ('config', 'options', 'what'),
    [
        ('demo/kdml_v3_demo_slices', None, 'student_2'),
        (
            'demo/student_demo_slices',
            {'model.backbone': MOBILENET, 'model.head.in_channels': 1024},
            'model',
        ),
        ('demo/student_demo', STOCK_SEGMENTOR, 'model'),
    ],
    ids=['resnet', 'mobilenet', 'segmentor'],
)
def test_stock_parts_do_without_mmkdml(config, options, what, tmp_path):
    source = source_of(tmp_path, config, options, what)
    assert write_checkpoint(source, tmp_path) == ()
    path = tmp_path / f'{source.name}.py'
    assert 'mmkdml' not in path.read_text()
    image = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / 'image.png'), image)
    done = subprocess.run(
        [sys.executable, '-c', WITHOUT_MMKDML, path, path.with_suffix('.pth'),
         tmp_path / 'image.png', tmp_path / 'scores.npy'],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rgb = np.ascontiguousarray(np.moveaxis(image[..., ::-1], 2, 0))
    expected = framework_answers(source)(rgb[None])[0][0]
    np.testing.assert_allclose(np.load(tmp_path / 'scores.npy'), expected, atol=1e-5)


def test_the_files_hold_the_weights_and_nothing_else(tmp_path):
    source = source_of(tmp_path, 'demo/kdml_v3_demo', what='student_1')
    assert write_checkpoint(source, tmp_path) == ('StemResNet', 'UNetHead')
    content = torch.load(tmp_path / 'kdml_v3_demo-student_1.pth', weights_only=True)
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta'] == dict(dataset_meta=META)
    safe = load_file(tmp_path / 'kdml_v3_demo-student_1.safetensors')
    expected = source.members['student_1'].state_dict()
    for weights in (content['state_dict'], safe):
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[key], value) for key, value in expected.items())
    text = (tmp_path / 'kdml_v3_demo-student_1.py').read_text()
    for word in ('teacher', 'Pretrained', 'FocalDice', 'LoadBinaryMask', 'optim', 'data/'):
        assert word not in text


def test_the_teacher_names_its_block(tmp_path):
    source = source_of(tmp_path, 'demo/kdml_v3_demo_slices', what='teacher')
    assert write_checkpoint(source, tmp_path) == ('ConvBlockNeck',)
    written = Config.fromfile(tmp_path / 'kdml_v3_demo_slices-teacher.py')
    assert written.custom_imports.imports == ['mmkdml.models']
    assert written.model.data_preprocessor.to_rgb is True


def test_an_ensemble_is_no_network_of_the_frameworks(tmp_path):
    source = source_of(tmp_path, 'demo/kdml_v3_demo', what='ensemble')
    with pytest.raises(ValueError, match='MMPretrain and MMSegmentation have no ensembles: export'):
        write_checkpoint(source, tmp_path)
