"""Parameter schedules that are advanced to the step of a checkpoint."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from mmengine.optim import _ParamScheduler


def advance(
    schedulers: Iterable[list[_ParamScheduler]], epochs: int, iterations: int, begun: int = 0
) -> None:
    """Advance newly built schedulers as a run that used them from its first iteration has.

    Hyperparameters in the optimizers follow, in the same order of steps and with the same rounding
    as in a run. If the length of an epoch has changed, the epochs are spread evenly over the
    iterations. A schedule that depends on validation scores (``ReduceOnPlateauLR``) starts again.

    Args:
        schedulers: A list of schedulers for each optimizer, at step 0.
        epochs: Epochs that are done.
        iterations: Iterations that are done.
        begun: Those of them in the epoch in work.
    """
    every = [scheduler for its in schedulers for scheduler in its]
    ends = [round((iterations - begun) * epoch / epochs) for epoch in range(1, epochs + 1)]
    ended = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # steps of schedulers without steps of the optimizer
        for iteration in range(1, iterations + 1):
            for scheduler in every:
                if not scheduler.by_epoch:
                    scheduler.step()
            while ended < epochs and ends[ended] <= iteration:
                ended += 1
                for scheduler in every:
                    if scheduler.by_epoch:
                        scheduler.step()
