"""Display windows, heat maps and disagreement of members, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmkdml.analysis.case_figure import HEAT_COLORS


def apply_display_window(image: np.ndarray, center: float, width: float) -> np.ndarray:
    """Change brightness and contrast for display only.

    Args:
        image: (H, W, 3), uint8.
        center: Gray value that becomes medium gray.
        width: Number of gray values from black to white, > 0.

    Returns:
        (H, W, 3), uint8; the image itself for 127.5 and 255.
    """
    values = np.arange(256)
    table = np.round(255 * ((values - center) / width + 0.5).clip(0, 1)).astype(np.uint8)
    return table[image]


def blend_heat(image: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """Blend a heat map, transparent at 0, with the image in gray.

    Args:
        image: (H, W, 3), uint8, RGB.
        heat: (H, W), in [0, 1].
        opacity: Opacity of high values, in [0, 1].

    Returns:
        (H, W, 3), uint8.
    """
    colors = HEAT_COLORS(heat)
    shares = opacity * colors[..., 3:] / HEAT_COLORS(1.0)[3]
    gray = image.mean(axis=2, keepdims=True)
    return np.round(shares * 255 * colors[..., :3] + (1 - shares) * gray).astype(np.uint8)


def class_probability(scores: np.ndarray, index: int) -> np.ndarray:
    """Return the probability of a class.

    Args:
        scores: As in :class:`~mmkdml.apis.Answer` and divided by their sum: (K, ...), where K = 1
            is a single foreground probability.
        index: Index of the class; with K = 1 these are 0, the background, and 1.
    """
    if len(scores) > 1:
        return scores[index]
    return scores[0] if index else 1 - scores[0]


def count_differing(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Count the members that differ from the class that most members predict.

    Args:
        labels: Class indices of each member, (H, W) each.

    Returns:
        (H, W), integers from 0 to less than the number of members.
    """
    stack = np.stack(list(labels))
    votes = np.max([(stack == one).sum(axis=0) for one in np.unique(stack)], axis=0)
    return len(stack) - votes


def js_divergence(scores: Sequence[np.ndarray]) -> np.ndarray:
    """Jensen-Shannon divergence of the members' probabilities (Lin 1991).

    It equals the mutual information of the class and the member, which is the uncertainty that
    members do not share (Depeweg et al. 2018).

    Args:
        scores: Probabilities of each member, (K, ...) each; K = 1 is one foreground probability.

    Returns:
        (...), in bits, from 0 to log2(min(members, classes)).
    """
    shares = np.stack(list(scores)).astype(np.float64)
    if shares.shape[1] == 1:
        shares = np.concatenate([1 - shares, shares], axis=1)
    return np.maximum(_entropy(shares.mean(axis=0), 0) - _entropy(shares, 1).mean(axis=0), 0)


def _entropy(shares: np.ndarray, axis: int) -> np.ndarray:
    logs = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return -(shares * logs).sum(axis=axis)
