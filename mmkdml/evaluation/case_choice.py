"""Choice of the cases that figures show."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd


def choose_by_group(groups: Sequence[Hashable], num: int) -> list[int]:
    """Choose cases such that no group is repeated before all other groups are used.

    Args:
        groups: Group (patient, lesion) of each case, the first choice first; sort the cases by
            their scores.
        num: Maximum number of cases, >= 1.

    Returns:
        Positions of the chosen cases, ascending.
    """
    series = pd.Series(groups, dtype=object)
    repeats = series.groupby(series, sort=False).cumcount().to_numpy()
    return sorted(np.argsort(repeats, kind='stable')[:num].tolist())
