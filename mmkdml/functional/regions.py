"""Losses on the regions of the ground-truth classes: IFVD and EMKD's region affinity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.checks import check_feature_maps, check_labels
from mmkdml.functional.vectors import directions, full_precision, scalar_products


def intra_class_variation(
    learner: Tensor, source: Tensor, truth: Tensor, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """Compare how similar each pixel is to the mean of its class (IFVD).

    Wang et al., *Intra-class Feature Variation Distillation for Semantic Segmentation*, ECCV 2020;
    YukangWang/IFVD:utils/criterion.py, copied by winycg/CIRKD:losses/ifvd.py. The similarity of a
    pixel is the cosine between its vector and the mean vector of its class in its image. The loss
    is the squared difference between the two sides' similarities, averaged over N, H and W. Ignored
    pixels contribute 0 to the sum but count in the mean.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H, W); C' may differ from C.
        truth: Class indices (N, H', W') in [0, num_classes), or ``ignore_index``; resized to the
            maps by nearest-neighbor interpolation.
        num_classes: Number of classes with background, 2 for a binary task.
        ignore_index: Label of ignored pixels.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If the shapes do not fit or a label is out of range.
    """
    check_feature_maps(learner, source, same_size=True)
    labels = labels_on(learner, truth)
    difference = _class_cosines(learner, labels, num_classes, ignore_index) - _class_cosines(
        source, labels, num_classes, ignore_index
    )
    return (difference * (labels != ignore_index)).square().mean()


def region_affinity(
    learner: Tensor, source: Tensor, truth: Tensor, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """Compare how similar the regions of an image are to each other (EMKD's RAD).

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py. The contrast of two regions is the cosine between their
    mean vectors. The loss is the squared difference between the two sides' contrasts, averaged over
    the images. The reference handles background and foreground; with more classes the loss is the
    mean over all pairs. An image that lacks one of two regions contributes 0 without a gradient,
    where the reference divides by 0 if the background is missing.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H', W'); all but N may differ.
        truth: See :func:`intra_class_variation`; resized to each side's map.
        num_classes: Number of classes with background, at least 2.
        ignore_index: Label of ignored pixels.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If the shapes do not fit or a label is out of range.
    """
    difference = _contrasts(learner, truth, num_classes, ignore_index) - _contrasts(
        source, truth, num_classes, ignore_index
    )
    return difference.square().mean()


def labels_on(features: Tensor, truth: Tensor) -> Tensor:
    """Resize labels (N, H', W') to a map (N, C, H, W) by nearest-neighbor interpolation."""
    if features.ndim != 4 or truth.ndim != 3 or len(features) != len(truth):
        raise ValueError(
            "Invalid inputs of a region loss: expected features (N, C, H, W) and labels (N, H', W')"
            f' with the same N, got {tuple(features.shape)} and {tuple(truth.shape)}. Losses on '
            'class regions are for segmentation'
        )
    resized = F.interpolate(truth.unsqueeze(1).float(), size=features.shape[2:], mode='nearest')
    return resized.squeeze(1).long()


def region_means(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Compute the mean vector of each class in each image, (N, K, C); 0 for a missing class."""
    check_num_classes(num_classes)
    check_labels(labels, num_classes, ignore_index)
    counted = labels != ignore_index
    masks = F.one_hot(labels.where(counted, num_classes).flatten(1), num_classes + 1).mT
    masks = masks[:, :num_classes].to(features.dtype)
    sizes = masks.sum(dim=2, keepdim=True).clamp_min(1)
    return scalar_products(masks, features.flatten(2)) / sizes


def check_num_classes(num_classes: int) -> None:
    """Raise ``ValueError`` for fewer than two classes."""
    if num_classes < 2:
        raise ValueError(
            f'Invalid num_classes: expected at least 2, got {num_classes}. A binary task has '
            'background and foreground'
        )


def _class_cosines(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(N, C, H, W) -> (N, H, W), undefined where the label is ignored."""
    features = full_precision(features)
    centers = directions(region_means(features, labels, num_classes, ignore_index), dim=2)
    cosines = scalar_products(centers, directions(features).flatten(2).mT)
    own = labels.where(labels != ignore_index, 0).flatten(1).unsqueeze(1)
    return cosines.gather(1, own).view_as(labels)


def _contrasts(features: Tensor, truth: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(N, C, H, W) -> (N, P), one value for each of P pairs of classes."""
    labels = labels_on(features, truth)
    means = region_means(full_precision(features), labels, num_classes, ignore_index)
    centers = directions(means, dim=2)
    first, second = torch.triu_indices(num_classes, num_classes, offset=1, device=centers.device)
    return scalar_products(centers, centers)[:, first, second]
