"""Losses of members and transfers in short."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmkdml.console import short_number

_TOTAL = 'loss'
# Losses of a network without members; if there are more, only their sum is shown.
_MOST_LOSSES = 4


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Abbreviate members: ``T`` for ``teacher``, ``S1`` for ``student_1``.

    Names that would have the same abbreviation as another one are kept.
    """
    short = {name: name[0].upper() + ''.join(re.findall(r'\d+$', name)) for name in names}
    values = list(short.values())
    return {name: one if values.count(one) == 1 else name for name, one in short.items()}


@dataclass(frozen=True)
class ShownTransfer:
    """Transfer in a line of losses.

    Attributes:
        key: Key of its loss.
        learner: Name of the member that learns.
        label: Abbreviation, e.g. ``T:f`` for the teacher's features.
        columns: Source, arrow, learner, knowledge, weight and loss.
        schedule: Schedule of the weight, e.g. ``LinearWeight(end=5)``; empty if it is constant.
    """

    key: str
    learner: str
    label: str
    columns: tuple[str, ...]
    schedule: str = ''


class LossLine:
    """Formats the losses of a model: ``T 0.86``, ``S1 0.10 (T:f 0.11 S2:p 0.001)``.

    Args:
        model: A classroom, or any other model, whose losses are shown by name.

    Attributes:
        short: Abbreviations of the members by name; empty without members.
        transfers: The transfers in the order of their learners.
    """

    def __init__(self, model: Any) -> None:
        names = getattr(model, 'member_names', ())
        self.short = short_names(names)
        shown = [
            ShownTransfer(
                term.key,
                term.transfer.learner,
                f'{self.short[term.transfer.source]}:{term.transfer.knowledge[0]}',
                columns[:6],
                columns[-1].removeprefix('schedule=') if term.transfer.schedule else '',
            )
            for term in getattr(model, 'transfer_terms', ())
            for columns in [term.transfer.columns()]
        ]
        self.transfers = sorted(shown, key=lambda one: names.index(one.learner))

    def parts(self, losses: Mapping[str, float]) -> list[str]:
        """Return the parts of a line: the total, and one part per trained member.

        Args:
            losses: Values by their keys in the log.
        """
        total = [f'loss {short_number(losses[_TOTAL])}'] if _TOTAL in losses else []
        single = {key: value for key, value in losses.items() if key != _TOTAL}
        if not self.short:
            text = ', '.join(f'{key} {short_number(value)}' for key, value in single.items())
            return [*total, f'({text})'] if 1 < len(single) <= _MOST_LOSSES else total
        members = (self._member(name, single) for name in self.short)
        return total + [text for text in members if text]

    def _member(self, name: str, losses: Mapping[str, float]) -> str:
        own = {key: value for key, value in losses.items() if key.startswith(f'{name}.')}
        transfers = [one for one in self.transfers if one.key in own]
        supervised = [x for key, x in own.items() if not key.startswith(f'{name}.loss_from_')]
        text = self.short[name] if own else ''
        if supervised:
            text += f' {short_number(sum(supervised))}'
        if transfers:
            inner = (f'{one.label} {short_number(own[one.key])}' for one in transfers)
            text += f' ({" ".join(inner)})'
        return text
