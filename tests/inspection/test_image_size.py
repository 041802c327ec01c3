from pathlib import Path

import mmpretrain
import mmseg
import pytest
from mmengine.config import Config

from mmkdml.inspection import inspect_config, member_complexities
from mmkdml.inspection.image_size import data_image_size

CONFIGS = Path(__file__).parents[2] / 'configs'
# The sizes of all other configs are compared in tests/configs/test_configs.py.
STUDIES = sorted(path for folder in ('study', 'demo') for path in (CONFIGS / folder).glob('*.py'))
DETECTORS = [path for path in STUDIES if 'bccd' in path.stem or path.stem.endswith('_det')]
SMALL = [path for path in STUDIES if path not in DETECTORS]


@pytest.mark.parametrize('path', SMALL, ids=lambda path: path.stem)
def test_classrooms_and_baselines_have_the_size_of_their_data(path):
    config = Config.fromfile(path)
    size = (64, 48) if 'hippocampus' in path.stem else (64, 64)
    assert data_image_size(config) == size
    assert config.model.get('input_size', size) == size


@pytest.mark.parametrize('path', DETECTORS, ids=lambda path: path.stem)
def test_size_of_detectors_depends_on_the_image(path):
    """Their images keep the ratio of height and width."""
    assert data_image_size(Config.fromfile(path)) is None


@pytest.mark.parametrize(
    ('baseline', 'classroom', 'member'),
    [
        ('lgg64_teacher', 'lgg64', 'teacher'),
        ('lgg64_student', 'lgg64', 'student_1'),
        ('ham64_teacher', 'ham64', 'teacher'),
        ('ham64_student', 'ham64', 'student_1'),
    ],
)
def test_multiply_adds_of_a_baseline_are_those_in_a_classroom(baseline, classroom, member):
    (alone,), members = (
        member_complexities(inspect_config(Config.fromfile(CONFIGS / 'study' / f'{name}.py')))
        for name in (baseline, classroom)
    )
    (among,) = [one for one in members if one.name == member]
    assert (alone.parameters, alone.multiply_adds) == (among.parameters, among.multiply_adds)


@pytest.mark.parametrize(
    ('package', 'name', 'size'),
    [
        (mmseg, 'unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64', (64, 64)),  # sliding window
        (mmseg, 'pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024', (512, 1024)),
        (mmseg, 'segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512', (512, 512)),
        (mmpretrain, 'resnet/resnet50_8xb32_in1k', (224, 224)),
        (mmpretrain, 'resnet/resnet18_8xb16_cifar10', (32, 32)),  # crops of the training images
        (mmpretrain, 'vision_transformer/vit-base-p16_64xb64_in1k-384px', (384, 384)),
    ],
)
def test_configs_of_the_frameworks(package, name, size):
    path = Path(package.__file__).parent / '.mim' / 'configs' / f'{name}.py'
    assert data_image_size(Config.fromfile(path)) == size


def test_last_transform_decides():
    def size(*pipeline, **model):
        wrapped = dict(type='RepeatDataset', dataset=dict(type='X', pipeline=pipeline))
        return data_image_size(dict(test_dataloader=dict(dataset=wrapped), model=model))

    resize = dict(type='mmcv.Resize', scale=(48, 32))  # (width, height)
    assert size(resize) == (32, 48)
    assert size(resize, dict(type='CenterCrop', crop_size=16)) == (16, 16)
    assert size(resize, dict(type='ResizeEdge', scale=16)) is None
    assert size(dict(resize, keep_ratio=True)) is None
    assert size(dict(resize, keep_ratio=True), data_preprocessor=dict(size=(8, 9))) == (8, 9)
    assert size(resize, test_cfg=dict(mode='slide', crop_size=(8, 9))) == (8, 9)
    assert size(dict(type='Pack')) is None
    assert data_image_size({}) is None
