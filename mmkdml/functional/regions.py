"""What features say of the regions that the truth marks: IFVD, and EMKD's region affinity."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from mmkdml.functional.divergence import full_precision
from mmkdml.functional.structure import check_same_grid
from mmkdml.functional.vectors import directions, scalar_products


def intra_class_variation(
    learner: Tensor, source: Tensor, truth: Tensor, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """Difference in how alike each pixel is to its class (IFVD).

    Wang et al., *Intra-class Feature Variation Distillation for Semantic Segmentation*, ECCV 2020;
    YukangWang/IFVD:utils/criterion.py, of which winycg/CIRKD:losses/ifvd.py is a copy. A pixel's
    likeness is the cosine between its vector and the mean of its class in its image; the loss is
    the squared difference between the two sides' likenesses, averaged over N, H and W. Ignored
    pixels have no difference and count in the mean.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H, W); C' may be another number.
        truth: Class indices (N, H', W') in [0, num_classes), or ``ignore_index``; resized to the
            maps by the nearest neighbour.
        num_classes: Background included, 2 for a binary task.
        ignore_index: The label of pixels that do not count.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If the shapes do not fit, or a label is out of range.
    """
    check_same_grid(learner, source, 'The intra-class variation')
    labels = labels_on(learner, truth)
    difference = _likeness(learner, labels, num_classes, ignore_index) - _likeness(
        source, labels, num_classes, ignore_index
    )
    return (difference * (labels != ignore_index)).square().mean()


def region_affinity(
    learner: Tensor, source: Tensor, truth: Tensor, num_classes: int = 2, ignore_index: int = 255
) -> Tensor:
    """Difference in how alike the regions of an image are to each other (EMKD's RAD).

    Qin et al., *Efficient Medical Image Segmentation Based on Knowledge Distillation*, TMI 2021;
    EagleMIT/EMKD:utils/loss_functions.py. The contrast of two regions is the cosine between their
    mean vectors; the loss is the squared difference between the two sides' contrasts, averaged over
    the images. The reference knows background and foreground; with more classes it is the mean over
    all pairs. An image that lacks one of two regions gives 0 and no gradient, where the reference
    divides by 0 if it is the background.

    Args:
        learner: Feature map (N, C, H, W).
        source: Feature map (N, C', H', W'); all but N may differ.
        truth: See :func:`intra_class_variation`; here resized to each side's map.
        num_classes: See there; at least 2.
        ignore_index: See there.

    Returns:
        Scalar in [0, 4].

    Raises:
        ValueError: If the shapes do not fit, or a label is out of range.
    """
    difference = _contrasts(learner, truth, num_classes, ignore_index) - _contrasts(
        source, truth, num_classes, ignore_index
    )
    return difference.square().mean()


def labels_on(features: Tensor, truth: Tensor) -> Tensor:
    """The truth (N, H', W') resized to a map (N, C, H, W) by the nearest neighbour: (N, H, W).

    Raises:
        ValueError: If the two are not of such shapes, or N differs.
    """
    if features.ndim != 4 or truth.ndim != 3 or len(features) != len(truth):
        raise ValueError(
            "Expected features (N, C, H, W) and a truth (N, H', W') of one N, got "
            f'{tuple(features.shape)} and {tuple(truth.shape)}; methods that average over the '
            'regions of classes are for segmentation'
        )
    resized = F.interpolate(truth.unsqueeze(1).float(), size=features.shape[2:], mode='nearest')
    return resized.squeeze(1).long()


def region_means(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Mean vector of each class in each image, 0 for a class that is not there.

    Args:
        features: (N, C, H, W).
        labels: (N, H, W), in [0, num_classes) or ``ignore_index``.
        num_classes: K >= 2.
        ignore_index: See :func:`intra_class_variation`.

    Returns:
        (N, K, C).

    Raises:
        ValueError: If K is below 2, or a label is out of range.
    """
    check_num_classes(num_classes)
    counted = labels != ignore_index
    # On a GPU the check would wait for the device at every step, and one_hot stops there anyway.
    if labels.is_cpu and bool((counted & ((labels < 0) | (labels >= num_classes))).any()):
        raise ValueError(
            f'Labels must be in [0, {num_classes}) or {ignore_index} (ignored), got '
            f'{labels.unique().tolist()}; set num_classes to the number of classes'
        )
    masks = F.one_hot(labels.where(counted, num_classes).flatten(1), num_classes + 1).mT
    masks = masks[:, :num_classes].to(features.dtype)
    sizes = masks.sum(dim=2, keepdim=True).clamp_min(1)
    return scalar_products(masks, features.flatten(2)) / sizes


def check_num_classes(num_classes: int) -> None:
    """Raises ``ValueError`` unless there are at least two."""
    if num_classes < 2:
        raise ValueError(
            'num_classes must be at least 2 (a binary task has background and foreground), got '
            f'{num_classes}'
        )


def _likeness(features: Tensor, labels: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(N, C, H, W) -> (N, H, W); anything where the label is ignored."""
    features = full_precision(features)
    centres = directions(region_means(features, labels, num_classes, ignore_index), dim=2)
    cosines = scalar_products(centres, directions(features).flatten(2).mT)
    own = labels.where(labels != ignore_index, 0).flatten(1).unsqueeze(1)
    return cosines.gather(1, own).view_as(labels)


def _contrasts(features: Tensor, truth: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """(N, C, H, W) -> (N, P), P pairs of classes."""
    labels = labels_on(features, truth)
    means = region_means(full_precision(features), labels, num_classes, ignore_index)
    centres = directions(means, dim=2)
    first, second = torch.triu_indices(num_classes, num_classes, offset=1, device=centres.device)
    return scalar_products(centres, centres)[:, first, second]
