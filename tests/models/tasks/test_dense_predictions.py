"""The oracles are the heads' own boxes and scores before non-maximum suppression."""

import pytest
import torch
from mmengine import ConfigDict

pytest.importorskip('mmdet')
from mmkdml.models.tasks.dense_predictions import dense_predictions, has_dense_predictions

DENSE = ['atss', 'retinanet', 'fcos', 'fcos_norm', 'gfl', 'rtmdet', 'yolox', 'free_anchor']
HEIGHT, WIDTH = 96, 64


def head_outputs(member):
    images = torch.randn(2, 3, HEIGHT, WIDTH, generator=torch.manual_seed(1))
    with torch.no_grad():
        return member.bbox_head(member.extract_feat(images))


def own_predictions(head, outputs):
    """Return all boxes and scores of the second image, one by one for each class."""
    meta = dict.fromkeys(('img_shape', 'ori_shape', 'pad_shape'), (HEIGHT, WIDTH))
    everything = ConfigDict(nms_pre=10**6, score_thr=-1.0, min_bbox_size=-1, max_per_img=-1)
    factors = [None] if len(outputs) == 2 else outputs[2:]
    if len(outputs) == 3:  # only the class, as in transfers
        certain = [torch.full_like(level, 100.0) for level in factors[0]]
        outputs = (*outputs[:2], certain)
    found = head.predict_by_feat(
        *outputs, batch_img_metas=[meta] * 2, cfg=everything, rescale=False, with_nms=False
    )[1]
    return found.bboxes, found.scores, found.labels


@pytest.mark.parametrize('name', DENSE)
@pytest.mark.parametrize('training', [False, True])
def test_equal_the_predictions_of_the_head(detector, name, training):
    member = detector(name).eval()
    head = member.bbox_head
    assert has_dense_predictions(head)
    boxes, scores, labels = own_predictions(head, head_outputs(member))
    head.training = training  # not of its batch norms
    outputs = head_outputs(member)
    joined = dense_predictions(head, outputs)
    classes = head.cls_out_channels
    extra = 4 * 17 if name == 'gfl' else 0
    assert joined.shape[:2] == (2, classes + 4 + extra)
    strides = torch.cat(
        [
            torch.full((level[0, 0].numel() * level.shape[1] // classes,), float(stride))
            for level, stride in zip(outputs[0], [8, 16, 32, 64, 128], strict=False)
        ]
    )
    assert joined.shape[2] == len(strides)
    corners = (joined[1, classes : classes + 4] * strides).T
    limits = torch.tensor([WIDTH, HEIGHT, WIDTH, HEIGHT])
    if name != 'yolox':  # its boxes may leave the image
        corners = torch.minimum(corners.clamp(min=0), limits)
    probabilities = joined[1, :classes].sigmoid().T
    if name == 'yolox':  # whose head multiplies with the objectness, and returns the best class
        objectness = torch.cat([x[1].flatten() for x in outputs[2]]).sigmoid()
        torch.testing.assert_close(probabilities.amax(1) / objectness, scores)
        torch.testing.assert_close(corners, boxes)
        return
    for label in range(classes):
        own = labels == label
        order, ours = scores[own].argsort(stable=True), probabilities[:, label].argsort(stable=True)
        torch.testing.assert_close(probabilities[ours, label], scores[own][order])
        distinct = scores[own][order].diff().abs().gt(1e-6)
        alone = torch.cat([distinct, distinct.new_ones(1)]) & torch.cat(
            [distinct.new_ones(1), distinct]
        )
        torch.testing.assert_close(corners[ours][alone], boxes[own][order][alone])
        assert alone.any()
