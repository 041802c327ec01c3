"""Levels of the feature pyramids that the necks of mmdet compute."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Lists of modules with one module for each level, in their order of levels.
_LISTS = ('fpn_convs', 'out_convs', 'convs', 'extra_convs')
_AFTER_FPN = 'pafpn_convs'  # PAFPN: later outputs of the same levels, from the second one
_LEVEL = re.compile(rf'neck\.({"|".join((*_LISTS, _AFTER_FPN))})\.(\d+)')


def pyramid_levels(names: Iterable[str]) -> list[str]:
    """Return the modules that compute the levels of a detector's neck, finest first.

    Args:
        names: Dotted names of the detector's modules, in any order.

    Returns:
        For example ``neck.fpn_convs.0`` to ``neck.fpn_convs.4``; empty if the network has no such
        neck. Levels that a neck only pools from others have no module.
    """
    found: dict[str, dict[int, str]] = {}
    for name in names:
        if match := _LEVEL.fullmatch(name):
            found.setdefault(match[1], {})[int(match[2])] = name
    later = {index + 1: name for index, name in found.pop(_AFTER_FPN, {}).items()}
    levels = [
        [(found[one] | (later if one == _LISTS[0] else {}))[index] for index in sorted(found[one])]
        for one in _LISTS
        if one in found
    ]
    return [name for one in levels for name in one]
