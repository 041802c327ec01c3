"""Test-time augmentation against averages computed by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkdml.apis import load, load_config
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
SEGMENT, CLASSIFY = DEMO / 'kdml_v3_demo.py', DEMO / 'kdml_v3_demo_slices.py'
PIXELS = np.random.default_rng(0).integers(0, 256, (70, 90, 3)).astype(np.uint8)


def flipped_back(answer, flip):
    """Return scores of the unflipped image; those of a classifier have no direction."""
    return answer.scores if answer.scores.ndim == 1 else flip(answer.scores)


@pytest.mark.parametrize('config', [SEGMENT, CLASSIFY])
@pytest.mark.parametrize('network', ['classroom', 'plain'])
def test_default_views_are_averaged_per_member(checkpoints, tmp_path, config, network):
    """The expected values come from separate predictions of the image and its flips."""
    settings, checkpoint = load_config(config), checkpoints[config]
    if network == 'plain':
        shared = settings.model.data_preprocessor
        settings.model = dict(settings.model.students[0], data_preprocessor=shared)
        torch.manual_seed(0)
        checkpoint = tmp_path / 'plain.pth'
        torch.save(MODELS.build(settings.model).state_dict(), checkpoint)
    predictor = load(settings, checkpoint, 'cpu')
    flips = [lambda x: x, lambda x: x[..., ::-1], lambda x: x[..., ::-1, :]]
    of_image = [PIXELS, PIXELS[:, ::-1], PIXELS[::-1]]
    separate = [predictor.predict(np.ascontiguousarray(one))[0].answers for one in of_image]
    (views,) = predictor.predict(PIXELS, augment=True)
    means = {}
    for name in views.answers:
        each = [flipped_back(one[name], flip) for one, flip in zip(separate, flips, strict=True)]
        means[name] = np.mean(each, axis=0)
        assert not np.allclose(each[0], means[name])  # the views differ
    if network == 'classroom':
        means['ensemble'] = np.maximum(means['student_1'], means['student_2'])
    for name, answer in views.answers.items():
        np.testing.assert_allclose(answer.scores, means[name], atol=1e-5)
        label = means[name].argmax() if config == CLASSIFY else means[name][0] > 0.5
        np.testing.assert_array_equal(answer.label, label)


def test_views_of_a_tta_pipeline_are_averaged(checkpoints, tmp_path):
    """Two scales, unflipped and flipped, as in mmseg's configs."""
    config = load_config(SEGMENT)
    pack = config.test_dataloader.dataset.pipeline[-1]
    resizes = [dict(type='mmcv.Resize', scale=(side, side)) for side in (64, 96)]
    flips = [dict(type='mmcv.RandomFlip', prob=prob, direction='horizontal') for prob in (0.0, 1.0)]
    config.tta_model = dict(type='mmseg.SegTTAModel')
    config.tta_pipeline = [
        dict(type='mmcv.LoadImageFromFile'),
        dict(
            type='mmcv.TestTimeAug',
            transforms=[resizes, flips, [dict(type='mmseg.LoadAnnotations')], [pack]],
        ),
    ]
    Image.fromarray(PIXELS).save(tmp_path / 'x.png')
    (views,) = load(config, checkpoints[SEGMENT], 'cpu').predict(tmp_path / 'x.png', augment=True)
    each = []
    for side in (64, 96):
        config.test_dataloader.dataset.pipeline[1].scale = (side, side)
        predictor = load(config, checkpoints[SEGMENT], 'cpu')
        for step in (1, -1):
            (one,) = predictor.predict(np.ascontiguousarray(PIXELS[:, ::step]))
            each.append(one.answers['student_1'].scores[..., ::step])
    mean = np.mean(each, axis=0)
    np.testing.assert_allclose(views.answers['student_1'].scores, mean, atol=1e-5)
    np.testing.assert_array_equal(views.answers['student_1'].label, mean[0] > 0.5)
