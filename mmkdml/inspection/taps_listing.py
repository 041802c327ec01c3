"""Listing of the modules of a network that can be tapped, with their output shapes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import permutations, zip_longest

from prettytable import PrettyTable
from torch import nn

from mmkdml.commands import tool_command
from mmkdml.inspection.config import Inspection
from mmkdml.models.distillers.members import probe_member
from mmkdml.models.distillers.terms.transfer_terms import tap_names
from mmkdml.models.layouts import Layout, layout_of
from mmkdml.models.tap_presets import ALL_WITH_ALL, ONE_PAIR, Suggestion, suggested_taps
from mmkdml.models.tasks import Task


@dataclass(frozen=True)
class TapRow:
    """A module that ran in the forward pass of one image.

    Attributes:
        name: Dotted name within the member.
        module: Class name of the module.
        shape: Shape of its (last) output, or None if it has no tappable output.
        problem: Why the output is not tappable; empty if it is.
        layout: Layout of the output, None for vectors; see
            :func:`mmkdml.models.layouts.layout_of`.
    """

    name: str
    module: str
    shape: tuple[int, ...] | None
    problem: str = ''
    layout: Layout | None = field(default=None, compare=False)

    @property
    def map_shape(self) -> tuple[int, ...]:
        """Shape of the output as a map (N, C, h, w); its own shape if it is none."""
        shape = self.shape or ()
        return shape if self.layout is None else self.layout.map_shape(shape)


def tap_rows(member: nn.Module, task: Task, input_size: tuple[int, ...]) -> list[TapRow]:
    """List the modules of a member in the order in which their outputs appear, children first.

    Modules that do not run for the logits (losses, auxiliary heads) are left out, because a
    classroom does not support them as taps.

    Args:
        member: The network.
        task: Task of the network.
        input_size: (H, W) of the image.
    """
    modules = {name: module for name, module in member.named_modules() if name}
    taps = probe_member(member, task, modules, input_size).taps
    rows = []
    for name in dict.fromkeys(taps.order):
        try:
            shape = tuple(taps[name].shape)
        except ValueError as error:
            row = TapRow(name, type(modules[name]).__name__, None, _reason(error, name))
        else:
            layout = layout_of(member, name, shape, input_size)
            row = TapRow(name, type(modules[name]).__name__, shape, layout=layout)
        rows.append(row)
    return rows


def format_taps(
    inspection: Inspection,
    member: str | None = None,
    depth: int | None = None,
    match: str | None = None,
) -> str:
    """Format the taps of each member as a table; identical members share one.

    Args:
        inspection: The networks.
        member: List only this member.
        depth: List only names with at most this many parts; ``backbone.layer1`` has two.
        match: List only names that match this shell pattern, e.g. ``'*.layer?'``; ``*`` also
            matches dots.

    Raises:
        ValueError: If there is no such member, ``depth`` is below 1 or no module matches.
    """
    _check_member(inspection, member)
    if depth is not None and depth < 1:
        raise ValueError(f'Invalid depth: expected at least 1, got {depth}')
    listings: dict[tuple[str, tuple[TapRow, ...]], list[str]] = {}
    for name in [member] if member else inspection.members:
        network = inspection.members[name]
        rows = [
            row
            for row in tap_rows(network, inspection.task, inspection.input_size)
            if (depth is None or row.name.count('.') < depth)
            and (match is None or fnmatchcase(row.name, match))
        ]
        key = _default_tap(inspection.task, network), tuple(rows)
        listings.setdefault(key, []).append(name)
    if not any(rows for _, rows in listings):
        raise ValueError(
            f'Invalid match={match!r} and depth={depth}: expected at least one matching module, '
            'got none'
        )
    height, width = inspection.input_size
    return '\n\n'.join(
        [
            f'Outputs for one image of {height}x{width} (the last one of several). *: default tap',
            *(
                f'{", ".join(names)}\n{_table(rows, default)}'
                for (default, rows), names in listings.items()
            ),
        ]
    )


def format_suggestion(inspection: Inspection, method: str, member: str | None = None) -> str:
    """Format the taps that a method compares for each pair of members, and lines for a config.

    Identical pairs share a table.

    Args:
        inspection: Networks of a classroom. The pairs are those of its transfers or, if it has
            none, all pairs whose learner is not frozen.
        method: See :func:`mmkdml.models.tap_presets.suggested_taps`.
        member: Format only pairs with this member.

    Raises:
        ValueError: If there is no such member or method, there are no pairs, a network lacks the
            taps of the method, or the two sides have different numbers of taps.
    """
    _check_member(inspection, member)
    pairs = [pair for pair in _pairs(inspection) if member is None or member in pair]
    if not pairs:
        raise ValueError(
            'Invalid config: expected a classroom with at least two members, one of them trained, '
            f'got {", ".join(inspection.members)}'
        )
    names = dict.fromkeys(name for pair in pairs for name in pair)
    sides = {name: _side(inspection, method, name) for name in names}
    groups: dict[str, list[str]] = {}
    for source, learner in pairs:
        text = _pair_text(method, sides[source], sides[learner])
        groups.setdefault(text, []).append(f'{source} -> {learner}')
    height, width = inspection.input_size
    return '\n\n'.join(
        [
            f'Suggested taps for {method}, outputs for one image of {height}x{width}. Copy the '
            'lines below a table into the transfer',
            *(f'{", ".join(titles)}\n{text}' for text, titles in groups.items()),
        ]
    )


def _pairs(inspection: Inspection) -> list[tuple[str, str]]:
    distiller = inspection.distiller
    if distiller is None:
        return []
    planned = [(transfer.source, transfer.learner) for transfer in distiller.transfers]
    return list(dict.fromkeys(planned)) or [
        pair
        for pair in permutations(inspection.members, 2)
        if pair[1] not in distiller.frozen_names
    ]


def _side(inspection: Inspection, method: str, name: str) -> tuple[Suggestion, list[str]]:
    """Return the suggested taps of a member and their output shapes."""
    member, task = inspection.members[name], inspection.task
    tap = suggested_taps(method, member, task)
    taps = probe_member(member, task, tap_names(tap), inspection.input_size, name).taps
    return tap, [_shape_text(taps[tap_name].shape) for tap_name in tap_names(tap)]


def _pair_text(
    method: str, source: tuple[Suggestion, list[str]], learner: tuple[Suggestion, list[str]]
) -> str:
    (source_tap, source_shapes), (learner_tap, learner_shapes) = source, learner
    if len(source_shapes) != len(learner_shapes) and method not in ALL_WITH_ALL:
        raise ValueError(
            f'Invalid taps for {method}: expected the same number for source and learner, got '
            f'{source_tap} and {learner_tap}. Choose taps with {tool_command("list_taps")} without '
            '--method'
        )
    columns = (tap_names(source_tap), source_shapes, tap_names(learner_tap), learner_shapes)
    table = PrettyTable(['source tap', 'output', 'learner tap', 'output '], align='l')
    table.add_rows([list(row) for row in zip_longest(*columns, fillvalue='')])
    pairs: list[tuple[Suggestion, Suggestion]]
    if method in ONE_PAIR and len(source_shapes) > 1:
        pairs = list(zip(source_tap, learner_tap, strict=True))
        title = f'{table}\nThe loss compares one pair of taps. Write a transfer for each:'
    else:
        pairs, title = [(source_tap, learner_tap)], str(table)
    return '\n'.join(
        [title, *(f'source_tap={one!r},\nlearner_tap={other!r},' for one, other in pairs)]
    )


def _default_tap(task: Task, member: nn.Module) -> str:
    try:
        return task.default_tap(member)
    except ValueError:  # a network of timm that does not list its stages
        return ''


def _check_member(inspection: Inspection, member: str | None) -> None:
    if member is not None and member not in inspection.members:
        raise ValueError(
            f'Invalid member {member!r}: expected one of {", ".join(inspection.members)}'
        )


def _shape_text(shape: tuple[int, ...]) -> str:
    return 'x'.join(map(str, shape))


def _table(rows: tuple[TapRow, ...], default: str) -> str:
    table = PrettyTable(['', 'tap', 'module', 'output'], align='l')
    for row in rows:
        table.add_row(['*' if row.name == default else '', row.name, row.module, _output_text(row)])
    return table.get_string()


def _output_text(row: TapRow) -> str:
    if row.shape is None:
        return f'no tap: {row.problem}'
    layout = str(row.layout or '')
    return _shape_text(row.shape) + (f' ({layout})' if layout else '')


def _reason(error: Exception, name: str) -> str:
    """Shorten an error to its reason, without the tap's name and without advice."""
    return re.split(r'\. | \(', str(error).removeprefix(f'Invalid tap {name!r}: '))[0]
