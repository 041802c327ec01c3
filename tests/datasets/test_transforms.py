from functools import partial

import albumentations as A
import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import worker_init_fn
from mmengine.registry import TRANSFORMS as ROOT
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mmkdml.datasets import AlbumentationsTransform, LoadBinaryMask
from mmkdml.registry import TRANSFORMS

PAPER = [
    dict(type='HorizontalFlip', p=0.5),
    dict(type='VerticalFlip', p=0.5),
    dict(type='Transpose', p=0.5),
    dict(type='Affine', rotate=(-45, 45), scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), p=0.9),
]
BGR = np.random.default_rng(0).integers(1, 256, (16, 16, 3), dtype=np.uint8)


def quarters(size=16):
    """Return a map with quarters of 1, 2, 3 and 4."""
    return np.kron(np.array([[1, 2], [3, 4]], np.uint8), np.ones((size // 2,) * 2, np.uint8))


def apply(transform, seed, img=BGR, **maps):
    np.random.seed(seed)
    return transform(dict(img=img, seg_fields=list(maps), **maps))


def test_augmentation_follows_numpy_seed():
    one, two = AlbumentationsTransform(PAPER), AlbumentationsTransform(PAPER)
    results = [apply(one, seed)['img'] for seed in range(8)]
    for _ in range(3):
        one(dict(img=BGR))  # earlier calls do not matter
    for seed, result in enumerate(results):
        assert np.array_equal(apply(one, seed)['img'], result)
        assert np.array_equal(apply(two, seed)['img'], result)
    assert len({result.tobytes() for result in results}) == 8


def test_calls_differ():
    transform = AlbumentationsTransform(PAPER)
    np.random.seed(0)
    assert len({transform(dict(img=BGR))['img'].tobytes() for _ in range(8)}) > 6


def test_transforms_draw_independently():
    """With equal streams, as in a seeded Compose, both flips would always occur together."""
    transform = AlbumentationsTransform(PAPER[:2])
    outcomes = {
        'none': quarters(),
        'h': quarters()[:, ::-1],
        'v': quarters()[::-1],
        'both': quarters()[::-1, ::-1],
    }
    counts = dict.fromkeys(outcomes, 0)
    for seed in range(400):
        result = apply(transform, seed, gt_seg_map=quarters())['gt_seg_map']
        counts[next(k for k, v in outcomes.items() if np.array_equal(v, result))] += 1
    assert all(60 < count < 140 for count in counts.values()), counts


class Augmented(Dataset):
    """The same image repeatedly."""

    def __init__(self):
        self.transform = AlbumentationsTransform(PAPER)

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.transform(dict(img=BGR.copy()))['img']


def epoch(seed):
    loader = DataLoader(
        Augmented(),
        batch_size=4,
        num_workers=2,
        collate_fn=list,
        worker_init_fn=partial(worker_init_fn, num_workers=2, rank=0, seed=seed),
    )
    return [img.tobytes() for batch in loader for img in batch]


def test_workers_differ_and_runs_are_reproducible():
    first = epoch(seed=0)
    assert len(set(first)) > 13
    assert first == epoch(seed=0)
    assert first != epoch(seed=10)


def test_image_and_maps_move_together():
    transform = AlbumentationsTransform(
        [*PAPER[:3], dict(type='Affine', rotate=(-45, 45), p=1, interpolation=cv2.INTER_NEAREST)]
    )
    moved = 0
    for seed in range(20):
        map_ = quarters(32) * 50
        results = apply(
            transform, seed, np.stack([map_] * 3, axis=-1), gt_seg_map=map_, gt_edge_map=map_ // 2
        )
        for channel in range(3):
            assert np.array_equal(results['img'][..., channel], results['gt_seg_map'])
        assert np.array_equal(results['gt_edge_map'], results['gt_seg_map'] // 2)
        moved += not np.array_equal(results['gt_seg_map'], map_)
    assert moved > 15


def test_maps_keep_their_values_and_borders_are_0():
    transform = AlbumentationsTransform(
        [
            dict(
                type='OneOf',
                p=1,
                transforms=[
                    dict(type='ElasticTransform', alpha=30, p=1),
                    dict(type='Affine', rotate=(20, 40), p=1),
                ],
            ),
            dict(type='Affine', translate_percent=(0.5, 0.5), p=1),
        ]
    )
    for seed in range(10):
        results = apply(transform, seed, gt_seg_map=quarters() * 40)
        assert set(np.unique(results['gt_seg_map'])) <= {0, 40, 80, 120, 160}
        assert not results['gt_seg_map'][:7].any()
        assert not results['img'][:7].any()


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int32', 'float32', 'float64'])
@pytest.mark.parametrize('channels', [(), (1,), (3,), (4,), (5,)])
def test_transpose_is_that_of_albumentations(dtype, channels):
    image = np.random.default_rng(0).integers(0, 255, (5, 7, *channels)).astype(dtype)
    (transpose,) = AlbumentationsTransform([dict(type=A.Transpose, p=1)]).compose.transforms
    found = transpose(image=image, mask=image)
    assert np.array_equal(found['image'], image.swapaxes(0, 1))
    assert np.array_equal(found['mask'], image.swapaxes(0, 1))
    assert found['image'].dtype == dtype
    if dtype in ('uint8', 'float32') and channels in ((), (3,)):
        assert transpose.apply(image).flags.c_contiguous  # a view would be copied slowly


def test_img_shape_is_updated():
    results = apply(AlbumentationsTransform([A.Resize(10, 12)]), 0, gt_seg_map=quarters())
    assert results['img_shape'] == (10, 12) == results['gt_seg_map'].shape
    assert results['img'].shape == (10, 12, 3)
    assert results['img'].flags.c_contiguous


def test_transforms_receive_rgb():
    seen = []
    transform = AlbumentationsTransform([A.Lambda(image=lambda x, **_: seen.append(x) or x, p=1)])
    assert np.array_equal(apply(transform, 0)['img'], BGR)
    assert np.array_equal(seen[0], BGR[..., ::-1])


@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int32', 'float32', 'float64'])
def test_channel_order_and_dtype_are_restored(dtype):
    transform = AlbumentationsTransform([A.HorizontalFlip(p=1)])
    image = BGR.astype(dtype)[:, ::-1]  # not contiguous
    result = apply(transform, 0, image)['img']
    assert result.dtype == dtype
    assert np.array_equal(result, BGR)
    assert result.flags.c_contiguous


def test_grey_image_without_maps():
    transform = AlbumentationsTransform([A.HorizontalFlip(p=1)])
    assert np.array_equal(transform(dict(img=quarters()))['img'], quarters()[:, ::-1])


def test_inputs_are_not_changed():
    img, map_ = BGR.copy(), quarters()
    for seed in range(5):
        apply(AlbumentationsTransform(PAPER), seed, img, gt_seg_map=map_)
    assert np.array_equal(img, BGR)
    assert np.array_equal(map_, quarters())


def test_names_classes_and_instances_are_equivalent():
    kinds = [
        dict(type='Affine', rotate=(-90, 90), p=1),
        A.Affine(rotate=(-90, 90), p=1),
        dict(type=A.Affine, rotate=(-90, 90), p=1),
    ]
    results = [apply(AlbumentationsTransform([kind]), 1)['img'] for kind in kinds]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_config_of_classes(tmp_path):
    (tmp_path / 'config.py').write_text(
        'from albumentations import HorizontalFlip, OneOf\n'
        'from mmkdml.datasets import AlbumentationsTransform\n'
        'default_scope = None\n'
        'step = dict(type=AlbumentationsTransform, transforms=[\n'
        '    dict(type=OneOf, p=1, transforms=[dict(type=HorizontalFlip, p=1)])])\n'
    )
    config = Config.fromfile(tmp_path / 'config.py')
    transform = ROOT.build(config.step)
    assert np.array_equal(apply(transform, 0)['img'], BGR[:, ::-1])
    assert 'HorizontalFlip' in repr(transform)
    assert config.step.transforms[0].transforms[0].p == 1  # the config is unchanged


def test_dumped_config(tmp_path):
    """Dumped configs name classes by their paths."""
    (tmp_path / 'config.py').write_text(
        'from albumentations import HorizontalFlip\n'
        'from mmkdml.datasets import AlbumentationsTransform\n'
        'step = dict(type=AlbumentationsTransform, transforms=[dict(type=HorizontalFlip, p=1)])\n'
    )
    Config.fromfile(tmp_path / 'config.py').dump(tmp_path / 'dumped.py')
    config = Config.fromfile(tmp_path / 'dumped.py')
    assert config.step.transforms[0].type == 'albumentations.HorizontalFlip'
    assert np.array_equal(apply(ROOT.build(config.step), 0)['img'], BGR[:, ::-1])


@pytest.mark.parametrize(
    ('transform', 'error', 'message'),
    [
        (dict(type='HorizontalFlop'), ValueError, "has no transform 'HorizontalFlop'"),
        (dict(p=1), TypeError, "dict with the key 'type', got {'p': 1}"),
        ('HorizontalFlip', TypeError, "the key 'type', got 'HorizontalFlip'"),
    ],
)
def test_invalid_transforms_raise(transform, error, message):
    with pytest.raises(error, match=message):
        AlbumentationsTransform([transform])


def test_unknown_arguments_raise():
    with (
        pytest.warns(UserWarning, match='chance'),
        pytest.raises(ValueError, match="'chance' are not valid for transform HorizontalFlip"),
    ):
        AlbumentationsTransform([dict(type='HorizontalFlip', chance=1)])


def test_binary_mask_is_loaded(tmp_path):
    mask = np.pad(np.ones((2, 3), np.uint8), 2)
    Image.fromarray(255 * mask).save(tmp_path / 'm.png')
    load = TRANSFORMS.build(dict(type='LoadBinaryMask'))
    assert isinstance(load, LoadBinaryMask)
    sample = dict(img=BGR, seg_map_path=str(tmp_path / 'm.png'), seg_fields=[])
    results = load(sample)
    assert np.array_equal(results['gt_seg_map'], mask)
    assert results['gt_seg_map'].dtype == np.uint8
    assert results['seg_fields'] == ['gt_seg_map']
    assert results['img'] is BGR


def test_nonbinary_mask_raises(tmp_path):
    Image.fromarray(np.uint8([[0, 7]])).save(tmp_path / 'm.png')
    with pytest.raises(ValueError, match='m.png: expected a binary mask'):
        LoadBinaryMask()(dict(seg_map_path=str(tmp_path / 'm.png'), seg_fields=[]))


SPATIAL = [dict(type=name, p=1) for name in ('HorizontalFlip', 'RandomRotate90', 'Affine')]


@pytest.mark.parametrize('channels', [1, 2, 4, 13])
@pytest.mark.parametrize('dtype', ['uint8', 'uint16', 'int16', 'float32'])
def test_spatial_transforms_move_all_channels_like_the_first(channels, dtype):
    first = (np.random.default_rng(0).random((16, 16, 1)) * 200).astype(dtype)
    image = np.concatenate([first + index for index in range(channels)], axis=2).astype(dtype)
    found = apply(AlbumentationsTransform([*SPATIAL[:2]]), 0, image)['img']
    alone = apply(AlbumentationsTransform([*SPATIAL[:2]]), 0, first)['img']
    assert (found.shape, found.dtype) == ((16, 16, channels), np.dtype(dtype))
    for index in range(channels):
        np.testing.assert_array_equal(found[..., index], (alone[..., 0] + index).astype(dtype))
    assert apply(AlbumentationsTransform(SPATIAL), 0, image)['img'].shape == (16, 16, channels)


def test_color_transforms_refuse_other_channels():
    image = np.zeros((8, 8, 4), np.uint8)
    with pytest.raises(TypeError, match='HueSaturationValue.*3-channel'):
        apply(AlbumentationsTransform([dict(type='HueSaturationValue', p=1)]), 0, image)


@pytest.mark.parametrize('nested', [False, True])
def test_intensities_that_would_be_clipped_are_refused(nested):
    brightness = dict(type='RandomBrightnessContrast', p=1)
    steps = [dict(type='OneOf', transforms=[brightness], p=1)] if nested else [brightness]
    image = np.linspace(-2, 900, 256, dtype=np.float32).reshape(8, 8, 4)
    with pytest.raises(ValueError, match=r'BrightnessContrast: expected .*got \[-2, 900\]'):
        apply(AlbumentationsTransform(steps), 0, image)
    assert apply(AlbumentationsTransform(SPATIAL), 0, image)['img'].max() > 1
    color = AlbumentationsTransform(steps)
    assert apply(color, 0, np.full((8, 8, 3), 9, np.float32))['img'].shape == (8, 8, 3)
    assert color._warned  # as before for the frameworks' to_float32
    unit = (image - image.min()) / np.ptp(image)
    assert apply(AlbumentationsTransform(steps), 0, unit)['img'].shape == (8, 8, 4)
