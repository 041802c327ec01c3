"""Training step of a classroom as a function of its number of students."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mmengine.config import Config
from prettytable import PrettyTable

from benchmarks.steps import CLASSROOM, classroom_of, step_of
from benchmarks.timing import median_seconds
from mmkdml.inspection.config import Inspection, inspect_config, only_errors
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.transfers import Transfer

_STUDENT = 'copy_{}'


@dataclass(frozen=True)
class StudentCost:
    """Cost of the step of a classroom with some number of identical students.

    Attributes:
        seconds: Seconds per step, median over the rounds.
        members: Sum of the seconds of the separate steps of its members.
        linear: Seconds if each student added as much as the first one.
    """

    seconds: float
    members: float
    linear: float


def measure_students(
    config: Config, batch_size: int, rounds: int, most: int = 4
) -> dict[int, StudentCost]:
    """Measure interleaved steps of classrooms with 1, 2, ... identical students on the CPU.

    The students are copies of the first student of the config, with its transfers: those from a
    peer become transfers from every other copy.

    Args:
        config, batch_size, rounds: See :func:`benchmarks.steps.measure_steps`, also for errors.
        most: Largest number of students, >= 1.

    Returns:
        Costs by number of students.
    """
    if most < 1:
        raise ValueError(f'Invalid most: expected at least 1 student, got {most}')
    inspection = inspect_config(config)
    rooms = {number: _with_students(inspection, number) for number in range(1, most + 1)}
    steps = {name: step_of(rooms[1], config, name, batch_size) for name in rooms[1].members}
    for number, room in rooms.items():
        steps[str(number)] = step_of(room, config, CLASSROOM, batch_size)
    seconds = median_seconds(steps, rounds)
    others = sum(seconds[name] for name in rooms[1].members if name != _STUDENT.format(1))
    student = seconds[_STUDENT.format(1)]
    return {
        count: StudentCost(
            seconds[str(count)], others + count * student, others + count * (seconds['1'] - others)
        )
        for count in rooms
    }


def format_students(costs: Mapping[int, StudentCost]) -> str:
    """Format the costs as a table with ratios to the sum of the members and to linear growth."""
    names = ['students', 'seconds', 'sum of members', 'ratio', 'linear', 'ratio ']
    table = PrettyTable(names, align='r')
    for number, cost in costs.items():
        cells = [cost.seconds]
        for reference in (cost.members, cost.linear):
            cells += [reference, cost.seconds / reference]
        table.add_row([number, *(f'{cell:.3f}' for cell in cells)])
    return table.get_string()


def _with_students(inspection: Inspection, number: int) -> Inspection:
    """Replace all students by copies of the first one; the other members are shared."""
    room = classroom_of(inspection, 'this config')
    first = room.student_names[0]
    students = [_STUDENT.format(place) for place in range(1, number + 1)]
    members = {name: x for name, x in inspection.members.items() if name not in room.student_names}
    copies = {name: copy.deepcopy(inspection.members[first]) for name in students}
    with only_errors():  # hide warnings about frozen members without weights
        distiller = KnowledgeDistiller(
            {**members, **copies},
            _copy_transfers(room.transfers, first, set(room.student_names), students),
            supervised_weights={
                name: room.supervised_weights[first if name in copies else name]
                for name in (*members, *copies)
                if name in copies or name not in room.frozen_names
            },
            frozen=dict.fromkeys(room.frozen_names),
            students=students,
            input_size=inspection.input_size,
            data_preprocessor=room.data_preprocessor,
        )
    return dataclasses.replace(inspection, members=distiller.named_members(), distiller=distiller)


def _copy_transfers(
    transfers: Iterable[Transfer], first: str, peers: Collection[str], students: Sequence[str]
) -> list[Transfer]:
    """Give every copy the transfers of the first student."""
    rows = [row for row in transfers if not {row.source, row.learner} & set(peers)]
    for row in transfers:
        if row.learner != first:
            continue
        sources = students if row.source in peers else [row.source]
        for learner in students:
            rows += [
                dataclasses.replace(copy.deepcopy(row), source=source, learner=learner)
                for source in sources
                if source != learner
            ]
    return rows
