"""Images of a case with their predictions and truth, and their cache."""

from __future__ import annotations

import pickle
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmkdml.apis.prediction.answers import Answer

_CACHE_BYTES = 2**30


@dataclass(frozen=True, eq=False)
class ViewSlice:
    """An image with the predictions of all members.

    Attributes:
        image: (H, W, 3), uint8, RGB.
        answers: Predictions by member, teachers first and the ensemble last.
        truth: Class indices (H, W), uint8, where 255 is ignored; class index; indices of several
            classes, a tuple; or :class:`~mmkdml.evaluation.boxes.samples.TrueBoxes`. None if it is
            unknown.
        spacing: Height and width of a pixel in millimeters; None if unknown.
    """

    image: np.ndarray
    answers: dict[str, Answer]
    truth: Any = None
    spacing: tuple[float, float] | None = None


def pack(view: ViewSlice) -> bytes:
    """Compress a slice; scores of masks are normalized and rounded to multiples of 1/255."""
    answers = {
        name: replace(one, scores=np.round(255 * one.probabilities).astype(np.uint8))
        if one.scores.ndim == 3
        else one
        for name, one in view.answers.items()
    }
    return zlib.compress(pickle.dumps(replace(view, answers=answers)), 1)


def unpack(packed: bytes) -> ViewSlice:
    """Return a slice that :func:`pack` compressed."""
    view = pickle.loads(zlib.decompress(packed))
    answers = {
        name: replace(one, scores=one.scores / np.float32(255)) if one.scores.ndim == 3 else one
        for name, one in view.answers.items()
    }
    return replace(view, answers=answers)


class CaseCache:
    """LRU cache of the packed slices of cases.

    Args:
        load: Predicts the slices of a case.
        limit: Largest size in bytes. The last case is kept even if it is larger.
    """

    def __init__(
        self, load: Callable[[str], Iterable[ViewSlice]], limit: int = _CACHE_BYTES
    ) -> None:
        self._load, self._limit = load, limit
        self._kept: OrderedDict[str, list[bytes]] = OrderedDict()
        self._lock = threading.Lock()  # one prediction at a time

    def get(self, name: str) -> list[bytes]:
        """Return the packed slices of a case.

        Raises:
            OSError: If a file of the case is unreadable.
            ValueError: If the case is unreadable or cannot be predicted.
        """
        with self._lock:
            if name not in self._kept:
                self._kept[name] = [pack(one) for one in self._load(name)]
            self._kept.move_to_end(name)
            while len(self._kept) > 1 and self._size() > self._limit:
                self._kept.popitem(last=False)
            return self._kept[name]

    def _size(self) -> int:
        return sum(len(one) for slices in self._kept.values() for one in slices)
