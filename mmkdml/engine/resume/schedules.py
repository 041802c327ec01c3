"""Advance parameter schedules to the step of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from mmengine.optim import _ParamScheduler


def advance(
    schedulers: Iterable[list[_ParamScheduler]], epochs: int, iterations: int, unfinished: int = 0
) -> None:
    """Advance new schedulers and their optimizers as if they had been used from the start.

    Steps are taken in the same order and with the same rounding as in training. If the length of an
    epoch has changed, epochs are spread evenly over the iterations. Schedules that depend on
    validation scores (``ReduceOnPlateauLR``) start again.

    Args:
        schedulers: Schedulers of each optimizer, at step 0.
        epochs: Number of finished epochs.
        iterations: Number of finished iterations.
        unfinished: Number of these iterations in the current, unfinished epoch.
    """
    every = [scheduler for its in schedulers for scheduler in its]
    ends = [round((iterations - unfinished) * epoch / epochs) for epoch in range(1, epochs + 1)]
    ended = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # The optimizer takes no steps here.
        for iteration in range(1, iterations + 1):
            for scheduler in every:
                if not scheduler.by_epoch:
                    scheduler.step()
            while ended < epochs and ends[ended] <= iteration:
                ended += 1
                for scheduler in every:
                    if scheduler.by_epoch:
                        scheduler.step()
