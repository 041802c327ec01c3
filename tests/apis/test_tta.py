from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmseg.models.segmentors import SegTTAModel
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.apis.tta import augment_model, plain_config, tta_changes, use_tta
from mmkdml.datasets import LoadCheckedImage
from mmkdml.engine import PanelHook, SafeCheckpointHook
from mmkdml.models import MemberTTA
from mmkdml.registry import DATASETS, MODELS, TRANSFORMS

DEMO = Path(__file__).parents[2] / 'configs' / 'demo'
CONFIGS = [DEMO / 'kdml_v3_demo.py', DEMO / 'kdml_v3_demo_slices.py']


def with_data(path, slices):
    config, (source, train) = load_config(path), slices
    config.test_dataloader.dataset.update(
        data_root=str(source), ann_file=str(train.with_name('test.csv'))
    )
    return config


def first_item(config):
    return DATASETS.build(config.test_dataloader.dataset)[0]


@pytest.mark.parametrize('path', CONFIGS)
def test_default_views_are_the_image_and_its_flips(path, slices):
    config = with_data(path, slices)
    plain = first_item(config)
    before = config.test_dataloader.to_dict()
    use_tta(config)
    assert config.tta.views == 'image, horizontal flip, vertical flip'
    views = first_item(config)
    image = plain['inputs']
    assert not image.equal(image.flip(2))
    for view, expected in zip(views['inputs'], (image, image.flip(2), image.flip(1)), strict=True):
        assert view.equal(expected)
    samples = views['data_samples']
    assert [one.get('flip_direction') for one in samples] == [None, 'horizontal', 'vertical']
    if 'gt_sem_seg' in samples[0]:
        assert samples[0].gt_sem_seg.data.equal(plain['data_samples'].gt_sem_seg.data)
    else:
        assert samples[0].gt_label.equal(plain['data_samples'].gt_label)
    assert plain_config(config).test_dataloader.to_dict() == before
    assert 'tta' not in plain_config(config)


def views_config(**changes):
    flips = [dict(type='mmcv.RandomFlip', prob=prob) for prob in (1.0, 0.0)]
    resizes = [dict(type='mmcv.Resize', scale=(side, side)) for side in (32, 64, 96)]
    config = load_config(CONFIGS[0])
    *before, pack = config.test_dataloader.dataset.pipeline
    pack.meta_keys = ('img_path', 'ori_shape', 'img_shape')
    stages = [resizes, flips, [before[-1]], [pack]]
    config.tta_pipeline = [before[0], dict(type='mmcv.TestTimeAug', transforms=stages)]
    config.update(changes)
    return config


@pytest.mark.parametrize('loads', [True, False])
def test_views_of_a_tta_pipeline(slices, loads):
    """Pipelines for prediction load no ground truth; that of the test pipeline is used."""
    config = views_config()
    if not loads:
        config.tta_pipeline[-1].transforms.pop(2)
    config.test_dataloader.dataset.update(with_data(CONFIGS[0], slices).test_dataloader.dataset)
    truth = first_item(config)['data_samples'].gt_sem_seg.data
    use_tta(config)
    assert config.tta.views == '6 views of tta_pipeline'
    views = first_item(config)
    assert [one.shape[1] for one in views['inputs']] == [32, 32, 64, 64, 96, 96]
    assert [one.flip for one in views['data_samples']] == [True, False] * 3
    assert all(one.gt_sem_seg.data.equal(truth) for one in views['data_samples'])


def test_names_of_a_text_config():
    """As in mmseg's configs, whose names are those of the default scope."""
    load = dict(type='LoadImageFromFile')
    flips = [dict(type='RandomFlip', prob=prob) for prob in (0.0, 1.0)]
    for annotations in ([], [[dict(type='LoadAnnotations')]]):
        stages = [flips, *annotations, [dict(type='PackSegInputs')]]
        config = Config(
            dict(
                default_scope='mmseg',
                test_dataloader=dict(
                    dataset=dict(pipeline=[load, dict(type='LoadAnnotations'), stages[-1][0]])
                ),
                tta_pipeline=[load, dict(type='TestTimeAug', transforms=stages)],
            )
        )
        use_tta(config)
        *_, views = config.test_dataloader.dataset.pipeline
        assert [[one.type for one in stage] for stage in views.transforms] == [
            ['RandomFlip', 'RandomFlip'], ['LoadAnnotations'], ['PackSegInputs'],
        ]  # fmt: skip
        assert {'flip', 'flip_direction'} <= {*views.transforms[-1][0].meta_keys}


def test_settings_that_cannot_be_augmented():
    config = views_config(tta_pipeline=[dict(type='mmcv.LoadImageFromFile')])
    with pytest.raises(ValueError, match='tta_pipeline: expected TestTimeAug last.*LoadImage'):
        use_tta(config)
    config = load_config(CONFIGS[0])
    config.test_dataloader.dataset.pipeline.pop()
    with pytest.raises(ValueError, match='PackDetInputs last, got .*LoadBinaryMask'):
        use_tta(config)
    inner = Config(dict(test_dataloader=dict(dataset=dict(type='Wrapper', dataset={}))))
    for config in (inner, Config({})):
        with pytest.raises(ValueError, match='test_dataloader.dataset.*expected a pipeline'):
            use_tta(config)


def test_changes_name_the_views():
    own, config = load_config(CONFIGS[0]), views_config()
    assert tta_changes(own, config) == {}
    use_tta(config)
    changes = tta_changes(own, config)
    assert changes['tta'] == (False, '6 views of tta_pipeline')
    assert {key.partition('.')[0] for key in changes} == {'tta', 'tta_pipeline'}
    assert tta_changes(config, config) == {'tta': (False, '6 views of tta_pipeline')}
    assert tta_changes(None, config) == {'tta': (False, '6 views of tta_pipeline')}


class Highest(MemberTTA):
    """Custom class of a user."""


@pytest.mark.parametrize(
    ('settings', 'kind'), [(None, MemberTTA), (SegTTAModel, MemberTTA), (Highest, Highest)]
)
def test_model_and_folders_of_figures(settings, kind):
    model = MODELS.build(load_config(DEMO / 'student_demo.py').model)
    cfg = Config(dict(tta_model=dict(type=settings)) if settings else {})
    hooks = [PanelHook(), PanelHook('pictures'), PanelHook('/a'), SafeCheckpointHook(out_dir='x')]
    runner = SimpleNamespace(model=model, cfg=cfg, hooks=hooks)
    augment_model(runner)
    assert type(runner.model) is kind
    assert runner.model.module is model
    assert [one.out_dir for one in hooks] == ['tta/panels', 'tta/pictures', '/a/tta', 'x']


def test_detectors_are_flipped_before_padding_and_loading_boxes(tmp_path):
    """Boxes are flipped back without the padding; the true boxes of all views stay unflipped."""
    transforms = pytest.importorskip('mmdet.datasets.transforms')
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(tmp_path / 'x.png')
    pipeline = [
        dict(type=LoadCheckedImage),
        dict(type=transforms.Resize, scale=(60, 60), keep_ratio=True),
        dict(type=transforms.Pad, size=(64, 64)),
        dict(type=transforms.LoadAnnotations, with_bbox=True),
        dict(type=transforms.PackDetInputs),
    ]
    config = Config(dict(test_dataloader=dict(dataset=dict(pipeline=pipeline))))
    use_tta(config)
    results = dict(
        img_path=str(tmp_path / 'x.png'),
        img_id=0,
        instances=[dict(bbox=[1, 2, 9, 8], bbox_label=0, ignore_flag=0)],
    )
    for step in config.test_dataloader.dataset.pipeline:
        results = TRANSFORMS.build(step)(results)
    image, *flipped = (view[:, :40, :60] for view in results['inputs'])
    for view, axis in zip(flipped, (2, 1), strict=True):
        assert view.equal(image.flip(axis))
    assert [view.shape for view in results['inputs']] == [(3, 64, 64)] * 3
    directions = [None, 'horizontal', 'vertical']
    for sample, direction in zip(results['data_samples'], directions, strict=True):
        assert sample.get('flip_direction') == direction
        assert sample.ori_shape == (20, 30)
        assert sample.gt_instances.bboxes.tensor.tolist() == [[1, 2, 9, 8]]
