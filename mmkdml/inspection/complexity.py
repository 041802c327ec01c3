"""Parameters and FLOPs of members, and a readable description of a classroom."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prettytable import PrettyTable
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mmkdml.inspection.config import Inspection
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import probe_member
from mmkdml.models.distillers.terms.transfer_terms import (
    Shape,
    TransferTerm,
    projector_side,
    tap_names,
)
from mmkdml.models.transfers import Tap, Transfer
from mmkdml.weight_configs import format_schedule

_HEADS = ('decode_head', 'bbox_head', 'rpn_head', 'roi_head', 'head')
_PARTS = ('backbone', 'neck', *_HEADS, 'model')  # of a network, as attributes


@dataclass(frozen=True)
class MemberComplexity:
    """Size of one member.

    Attributes:
        name: Name of the member.
        network: Names of its parts, e.g. ``'StemResNet(50) + UNetHead'``.
        parameters: Number of parameters.
        multiply_adds: Multiply-adds of its convolutions and matrix products for one image.
        trained: False for frozen members.
        has_head: False if the head is not part of ``multiply_adds``: that of a detector whose
            number of proposals or queries depends on the image, see
            :class:`~mmkdml.models.tasks.detection.DetectionTask`.
    """

    name: str
    network: str
    parameters: int
    multiply_adds: int
    trained: bool
    has_head: bool = True


def member_complexities(inspection: Inspection) -> list[MemberComplexity]:
    """Compute the size of each member, in the classroom's order."""
    frozen = inspection.distiller.frozen_names if inspection.distiller else ()
    sizes = []
    for name, member in inspection.members.items():
        with FlopCounterMode(display=False) as counter:
            probed = probe_member(member, inspection.task, (), inspection.input_size)
        sizes.append(
            MemberComplexity(
                name,
                _network(member),
                count_parameters(member),
                counter.get_total_flops() // 2,  # PyTorch counts a multiply-add as two
                name not in frozen,
                probed.logits is not None,
            )
        )
    return sizes


def compression(students: Iterable[MemberComplexity], teacher: MemberComplexity) -> float:
    """Compute 1 - (parameters of all students) / (teacher's parameters) (paper, section 4.2).

    For example, 0.15 if the students together are 15 % smaller; negative if they are larger.
    """
    return 1 - sum(student.parameters for student in students) / teacher.parameters


def count_parameters(module: nn.Module) -> int:
    """Count all parameters of a module, frozen ones included."""
    return sum(parameter.numel() for parameter in module.parameters())


def describe(inspection: Inspection) -> str:
    """Describe the networks, transfers and ensemble of a config in tables and short lines."""
    sizes = member_complexities(inspection)
    height, width = inspection.input_size
    parts = [
        f'Members, for an image of {height}x{width}. GMACs: 10^9 multiply-adds of convolutions and '
        f'matrix products (1 multiply-add = 2 FLOPs)\n{_member_table(sizes)}'
    ]
    if headless := [size.name for size in sizes if not size.has_head]:
        parts.append(f'GMACs without the head, which is not run: {", ".join(headless)}')
    distiller = inspection.distiller
    if distiller is None:
        return '\n\n'.join(parts)
    for name in distiller.frozen_names:
        path = inspection.checkpoints.get(name)
        where = (
            'no checkpoint; keeps its initial weights'
            if path is None
            else (path + ('' if Path(path).exists() else ' (MISSING: train it first)'))
        )
        parts.append(f'Frozen {name}: {where}')
    parts.append(
        f'Transfers, with output shapes for one image\n{_transfer_table(distiller)}'
        if distiller.transfers
        else 'Transfers: none'
    )
    parts.append(
        'Weights of the supervised losses: '
        + ', '.join(f'{name} {weight:g}' for name, weight in distiller.supervised_weights.items())
    )
    if distiller.learned_weights is not None:
        parts.append(f'Learned factors of the weights: {type(distiller.learned_weights).__name__}')
    parts.append(_ensemble_lines(distiller, {size.name: size for size in sizes}))
    return '\n\n'.join(parts)


def _network(member: Any) -> str:
    parts = [part for name in _PARTS for part in _each(getattr(member, name, None))]
    return ' + '.join(map(_type_and_size, parts))


def _each(part: Any) -> list[Any]:
    """Return the heads of a cascade, or the part if there is one."""
    if isinstance(part, nn.ModuleList):
        return list(part)
    return [] if part is None else [part]


def _type_and_size(part: Any) -> str:
    network = getattr(part, 'timm_model', part)
    size = getattr(part, 'depth', None)
    if not isinstance(size, (int, str)):
        size = getattr(network, 'default_cfg', {}).get('architecture')
    return type(part).__name__ + (f'({size})' if size else '')


def _member_table(sizes: Iterable[MemberComplexity]) -> str:
    table = PrettyTable(['member', 'network', 'parameters (M)', 'GMACs', 'weights'], align='l')
    table.align['parameters (M)'] = table.align['GMACs'] = 'r'
    for size in sizes:
        table.add_row(
            [
                size.name,
                size.network,
                f'{size.parameters / 1e6:.2f}',
                f'{size.multiply_adds / 1e9:.3f}',
                'trained' if size.trained else 'frozen',
            ]
        )
    return table.get_string()


def _transfer_table(distiller: KnowledgeDistiller) -> str:
    table = PrettyTable(
        ['transfer', 'knowledge', 'weight', 'loss', 'source output', 'learner output', 'projector'],
        align='l',
    )
    terms = iter(distiller.transfer_terms)
    for transfer in distiller.transfers:
        pair = f'{transfer.source} -> {transfer.learner}'
        row = [pair, transfer.knowledge, _weight(transfer)]
        if transfer.is_off:  # no term was built
            table.add_row([*row, 'not computed', '-', '-', '-'])
            continue
        term = next(terms)
        table.add_row(
            [
                *row,
                type(term.loss).__name__,
                _outputs(term.source_tap, term.source_shape),
                _outputs(term.learner_tap, term.learner_shape),
                _projector(term),
            ]
        )
    return table.get_string()


def _weight(transfer: Transfer) -> str:
    chained = [f'* {format_schedule([one])}' for one in transfer.schedule]
    return '\n'.join([f'{transfer.weight:g}', *chained])


def _outputs(tap: Tap, shape: Shape | list[Shape]) -> str:
    shapes = shape if isinstance(shape, list) else [shape]
    return '\n'.join(
        f'{name} {"x".join(map(str, shape[1:]))}'
        for name, shape in zip(tap_names(tap) or ('logits',), shapes, strict=True)
    )


def _projector(term: TransferTerm) -> str:
    resize = term.transfer.resize
    resized = [f'resized to the size of the {resize}'] if resize else []
    if term.projector is None:
        return ', '.join(resized) or '-'
    inner = getattr(term.projector, 'projector', None)
    kind = type(term.projector).__name__ + (f' + {type(inner).__name__}' if inner else '')
    parameters = f'{count_parameters(term.projector) / 1e6:.3f} M parameters'
    return ', '.join([f'{kind} of the {projector_side(term.projector)}', parameters, *resized])


def _ensemble_lines(distiller: KnowledgeDistiller, sizes: dict[str, MemberComplexity]) -> str:
    ensemble = distiller.task.name_of(distiller.ensemble)
    students = [sizes[name] for name in distiller.student_names]
    parameters = sum(student.parameters for student in students)
    multiply_adds = sum(student.multiply_adds for student in students)
    lines = [
        f'Ensemble: {ensemble} of {", ".join(distiller.student_names)}; {parameters / 1e6:.2f} M '
        f'parameters, {multiply_adds / 1e9:.3f} GMACs'
    ]
    teachers = [size for name, size in sizes.items() if name not in distiller.student_names]
    for teacher in teachers:
        saved = compression(students, teacher)
        lines.append(
            f'Compared with {teacher.name}: {abs(saved):.1%} '
            f'{"fewer" if saved >= 0 else "MORE"} parameters, '
            f'{multiply_adds / teacher.multiply_adds:.1%} of its multiply-adds'
        )
    return '\n'.join(lines if teachers else [*lines, 'No teacher to compare with'])
