from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.prediction.image_pipeline import ImagePipeline

CONFIGS = Path(__file__).parents[3] / 'configs'
SEGMENT = CONFIGS / 'demo' / 'kdml_v3_demo.py'
CLASSIFY = CONFIGS / 'demo' / 'kdml_v3_demo_slices.py'


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'x.png')
    return tmp_path / 'x.png', pixels


@pytest.mark.parametrize('config', [SEGMENT, CLASSIFY])
def test_file_and_array_give_equal_inputs(picture, config):
    path, pixels = picture
    before = pixels.copy()
    pipeline = ImagePipeline(load_config(config))
    (image, of_file), (again, of_pixels) = pipeline(path), pipeline('name', pixels)
    np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(again, pixels)
    assert of_file['inputs'].shape == (3, 64, 64)
    assert of_file['inputs'].equal(of_pixels['inputs'])
    for packed, name in ((of_file, str(path)), (of_pixels, 'name')):
        assert packed['data_samples'].ori_shape == (30, 50)
        assert packed['data_samples'].img_path == name
        assert 'gt_sem_seg' not in packed['data_samples']
    np.testing.assert_array_equal(pixels, before)


def test_gray_pixels_are_repeated_in_three_channels():
    gray = np.random.default_rng(0).integers(0, 256, (64, 64)).astype(np.uint8)
    image, packed = ImagePipeline(load_config(SEGMENT))('x', gray)
    np.testing.assert_array_equal(image, np.stack([gray] * 3, axis=2))
    np.testing.assert_array_equal(packed['inputs'].numpy(), np.stack([gray] * 3))


def test_gray_and_float_loaders(picture):
    path, pixels = picture
    for load in (
        dict(color_type='grayscale'),
        dict(to_float32=True),
        dict(color_type='grayscale', to_float32=True),
    ):
        config = load_config(SEGMENT)
        config.test_dataloader.dataset.pipeline[0].update(load)
        pipeline = ImagePipeline(config)
        (image, of_file), (again, of_pixels) = pipeline(path), pipeline('x', pixels)
        assert of_file['inputs'].dtype == of_pixels['inputs'].dtype
        np.testing.assert_allclose(of_file['inputs'], of_pixels['inputs'], atol=2)  # rounded gray
        np.testing.assert_allclose(image, again, atol=2)
        assert image.shape == pixels.shape
        assert image.dtype == np.uint8


def test_default_views_are_flips(picture):
    path, _ = picture
    _, plain = ImagePipeline(load_config(SEGMENT))(path)
    _, views = ImagePipeline(load_config(SEGMENT), augment=True)(path)
    expected = [plain['inputs'], plain['inputs'].flip(2), plain['inputs'].flip(1)]
    assert all(map(np.array_equal, views['inputs'], expected))
    metas = [(one.flip, one.get('flip_direction')) for one in views['data_samples']]
    assert metas == [(False, None), (True, 'horizontal'), (True, 'vertical')]
    assert views['data_samples'][0].ori_shape == (30, 50)


def test_views_of_a_tta_pipeline(picture):
    path, _ = picture
    text = """
from mmcv.transforms import LoadImageFromFile, RandomFlip, Resize, TestTimeAug
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs
sizes = [dict(type=Resize, scale=(32, 32)), dict(type=Resize, scale=(48, 48))]
truth, pack = [dict(type=LoadAnnotations)], [dict(type=PackSegInputs)]
test_pipeline = [dict(type=LoadImageFromFile), *truth, *pack]
tta_pipeline = [
    dict(type=LoadImageFromFile), dict(type=TestTimeAug, transforms=[sizes, truth, pack])
]
"""
    (path.parent / 'own.py').write_text(text)
    config = Config.fromfile(path.parent / 'own.py')
    for _ in range(2):  # the config is not modified
        _, views = ImagePipeline(config, augment=True)(path)
        assert [tuple(one.shape) for one in views['inputs']] == [(3, 32, 32), (3, 48, 48)]
    assert ImagePipeline(config)(path)[1]['inputs'].shape == (3, 30, 50)


def test_views_keep_their_flip_direction(picture):
    """It is added to the ``meta_keys`` of the config's packing transform."""
    path, _ = picture
    config = load_config(SEGMENT)
    pack = config.test_dataloader.dataset.pipeline[-1]
    pack.meta_keys = ('ori_shape', 'img_shape')
    flips = [
        dict(type='mmcv.RandomFlip', prob=0.0),
        dict(type='mmcv.RandomFlip', prob=1.0, direction='vertical'),
    ]
    config.tta_pipeline = [
        dict(type='mmcv.LoadImageFromFile'),
        dict(type='mmcv.TestTimeAug', transforms=[flips, [pack]]),
    ]
    _, views = ImagePipeline(config, augment=True)(path)
    assert views['inputs'][1].equal(views['inputs'][0].flip(1))
    assert [one.get('flip_direction') for one in views['data_samples']] == [None, 'vertical']
    assert [one.flip for one in views['data_samples']] == [False, True]
    assert config.tta_pipeline[1].transforms[1][0].meta_keys == ('ori_shape', 'img_shape')


def test_invalid_pipelines_raise():
    with pytest.raises(ValueError, match='expected test_dataloader.dataset.pipeline or test_pip'):
        ImagePipeline(Config(dict(model=1)))
    with pytest.raises(ValueError, match=r"expected LoadImageFromFile .* first, got \['Resize'\]"):
        ImagePipeline(Config(dict(test_pipeline=[dict(type='mmcv.Resize', scale=(4, 4))])))
    loads = Config(dict(test_pipeline=[dict(type='mmcv.LoadImageFromFile')]))
    with pytest.raises(ValueError, match='expected PackInputs, .* last, got nothing'):
        ImagePipeline(loads, augment=True)
    loads.test_pipeline.append(dict(type='mmcv.Resize', scale=(4, 4)))
    with pytest.raises(ValueError, match='got Resize. Define a tta_pipeline'):
        ImagePipeline(loads, augment=True)
    loads.tta_pipeline = [
        dict(type='mmcv.LoadImageFromFile'),
        dict(type='mmcv.RandomFlip', prob=1.0),
    ]
    with pytest.raises(ValueError, match=r"expected TestTimeAug, .*'RandomFlip'\]"):
        ImagePipeline(loads, augment=True)
