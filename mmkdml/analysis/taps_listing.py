"""The modules of a network by the names that taps have, with what they give."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase

from prettytable import PrettyTable
from torch import nn

from mmkdml.analysis.inspection import Inspection
from mmkdml.models.distillers.plan import try_member
from mmkdml.models.tasks import Task


@dataclass(frozen=True)
class TapRow:
    """A module that ran in a forward of one image.

    Attributes:
        name: Dotted name in the member.
        module: Its type.
        shape: Of its output (the last one, if there are several); None if it cannot be tapped.
        problem: Why it cannot; empty if it can.
    """

    name: str
    module: str
    shape: tuple[int, ...] | None
    problem: str = ''


def tap_rows(member: nn.Module, task: Task, input_size: tuple[int, ...]) -> list[TapRow]:
    """The modules in the order in which their outputs come, the parts before the whole.

    What does not run when logits are computed (losses, auxiliary heads) is left out; a classroom
    cannot tap it.

    Args:
        member: The network.
        task: Its task.
        input_size: (H, W) of the image.
    """
    modules = {name: module for name, module in member.named_modules() if name}
    taps = try_member(member, task, modules, input_size).taps
    rows = []
    for name in dict.fromkeys(taps.order):
        try:
            shape, problem = tuple(taps[name].shape), ''
        except ValueError as error:
            shape, problem = None, _without_name(error, name)
        rows.append(TapRow(name, type(modules[name]).__name__, shape, problem))
    return rows


def format_taps(
    inspection: Inspection,
    member: str | None = None,
    depth: int | None = None,
    match: str | None = None,
) -> str:
    """A table for each member; members that are alike share one.

    Args:
        inspection: The networks.
        member: The only one to list.
        depth: Only names of at most this many parts; ``backbone.layer1`` has two.
        match: Only names that fit this shell pattern, e.g. ``'*.layer?'``; ``*`` stands for dots,
            too.

    Raises:
        ValueError: If there is no such member, the depth is below 1 or nothing is left to list.
    """
    if member is not None and member not in inspection.members:
        raise ValueError(
            f'There is no member {member!r}; the config has {", ".join(inspection.members)}'
        )
    if depth is not None and depth < 1:
        raise ValueError(f'depth must be at least 1, got {depth}')
    listings: dict[tuple[str, tuple[TapRow, ...]], list[str]] = {}
    for name in [member] if member else inspection.members:
        network = inspection.members[name]
        rows = [
            row
            for row in tap_rows(network, inspection.task, inspection.input_size)
            if (depth is None or row.name.count('.') < depth)
            and (match is None or fnmatchcase(row.name, match))
        ]
        key = inspection.task.default_tap(network), tuple(rows)
        listings.setdefault(key, []).append(name)
    if not any(rows for _, rows in listings):
        raise ValueError(f'No module fits match={match!r} and depth={depth}')
    height, width = inspection.input_size
    return '\n\n'.join(
        [
            f'Outputs for one image of {height}x{width}; of a module that gives several, the last. '
            '*: the default tap',
            *(
                f'{", ".join(names)}\n{_table(rows, default)}'
                for (default, rows), names in listings.items()
            ),
        ]
    )


def _table(rows: tuple[TapRow, ...], default: str) -> str:
    table = PrettyTable(['', 'tap', 'module', 'output'], align='l')
    for row in rows:
        table.add_row(
            [
                '*' if row.name == default else '',
                row.name,
                row.module,
                f'no tap: {row.problem}' if row.shape is None else 'x'.join(map(str, row.shape)),
            ]
        )
    return table.get_string()


def _without_name(error: Exception, name: str) -> str:
    """What is wrong, without the tap's name, which stands beside it, and without advice."""
    problem = re.split(r';| \(|, so ', str(error))[0]
    return problem.replace(f'The output of the tap {name!r}', 'its output').replace(
        f'The tap {name!r}', 'it'
    )
