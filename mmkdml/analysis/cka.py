"""Linear CKA between the layers of members, computed batch by batch over a data set."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from mmkdml.analysis.hard_cases import member_inputs
from mmkdml.commands import tool_command
from mmkdml.functional.cka import FEWEST_IMAGES, centered_gram, unbiased_hsic
from mmkdml.inspection.config import inspect_model
from mmkdml.inspection.stage_names import outputs_of_stages, stage_labels
from mmkdml.inspection.taps_listing import tap_rows
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.distillers.members import evaluating
from mmkdml.models.inference_copies import InferenceCopies
from mmkdml.models.layouts import layout_of
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import Task
from mmkdml.names import PLAIN

Pair = tuple[str, str]
COLUMNS = [
    *('row', 'row_layer', 'row_stage'),
    *('column', 'column_layer', 'column_stage'),
    *('cka', 'images'),
]


def choose_layers(
    member: nn.Module,
    task: Task,
    input_size: tuple[int, ...],
    patterns: Sequence[str] | None = None,
) -> dict[str, str]:
    """Choose the layers of a member to compare.

    Args:
        member: The network.
        task: Task of the network.
        input_size: (H, W) of the dummy image.
        patterns: Shell patterns of dotted names, e.g. ``'backbone.layer?.*'``; ``*`` also matches
            dots. Default: the outputs of stem, stages, decoder blocks and logits, see
            :func:`~mmkdml.inspection.stage_names.stage_of_layers`, and the default tap.

    Returns:
        Label of each layer by its name, in the order in which the layers run; see
        :func:`~mmkdml.inspection.stage_names.stage_labels`.

    Raises:
        ValueError: If no layer with a tappable output matches.
    """
    rows = [row for row in tap_rows(member, task, input_size) if row.shape is not None]
    tappable = [row.name for row in rows]
    wanted = patterns or [*outputs_of_stages(rows, input_size), task.default_tap(member)]
    layers = [name for name in tappable if any(fnmatchcase(name, one) for one in wanted)]
    if not patterns:  # a backbone has the output of its last stage: keep only the stage
        layers = [one for one in layers if not any(name.startswith(f'{one}.') for name in layers)]
    if not layers:
        raise ValueError(
            f'Invalid layers of {type(member).__name__}: expected '
            f'{", ".join(patterns or ("at least one stage",))}, got none. Choose patterns of its '
            f'modules, e.g. {", ".join(tappable[:5])} ({tool_command("list_taps")} '
            'lists all)'
        )
    return stage_labels(rows, layers, input_size)


def choose_pairs(model: nn.Module) -> list[Pair]:
    """Pair all teachers with all students, then the students; or a single network with itself."""
    if not isinstance(model, KnowledgeDistiller):
        return [(PLAIN, PLAIN)]
    students = model.student_names
    teachers = [name for name in model.member_names if name not in students]
    pairs = [(teacher, student) for teacher in teachers for student in students]
    return [*pairs, *combinations(students, 2)] or [(students[0], students[0])]


def measure_cka(
    model: BaseModel,
    loader: Collection[Any],
    pairs: Sequence[Pair] | None = None,
    patterns: Sequence[str] | None = None,
    pool: int | None = None,
) -> pd.DataFrame:
    """Compute linear CKA between all chosen layers of pairs of members on one data set.

    The three terms of CKA are estimated without bias in each batch and averaged over batches,
    weighted by their number of images (see :mod:`mmkdml.functional.cka`), so memory does not grow
    with the data set. Shuffle the batches: slices of one patient that share a batch look more
    similar than images drawn from all patients.

    Args:
        model: Classroom, classifier or segmentor with its weights, on its device.
        loader: Loader of batches for the model's data preprocessor. Batches of fewer than 4 images,
            such as an incomplete last batch, are skipped.
        pairs: Pairs of member names, rows first; see :func:`choose_pairs` for the default. A member
            can be paired with itself.
        patterns: See :func:`choose_layers`.
        pool: Average-pool each map to at most ``pool`` x ``pool``. By default full maps are
            compared, as in the papers. Pooling is faster, but then layers that respond at different
            positions may count as similar.

    Returns:
        A row for each pair of layers: the members ``row`` and ``column``; the modules ``row_layer``
        and ``column_layer``; their readable names ``row_stage`` and ``column_stage``; ``cka`` and
        the number of ``images``. CKA is at most 1 up to noise and can be slightly negative; ``nan``
        where the output of a layer is the same for all images.

    Raises:
        TypeError: If the model is none of these.
        ValueError: If a member or layer does not exist, ``pool`` is below 1, or no batch has 4
            images.
    """
    if pool is not None and pool < 1:
        raise ValueError(f'Invalid pool: expected at least 1, got {pool}')
    inspection = inspect_model(model)
    members, task = inspection.members, inspection.task
    pairs = [(a, b) for a, b in pairs or choose_pairs(model)]
    names = list(dict.fromkeys(name for pair in pairs for name in pair))
    unknown = [name for name in names if name not in members]
    if unknown:
        raise ValueError(
            f'Invalid pairs: expected members among {", ".join(members)}, got {", ".join(unknown)}'
        )
    layers = {
        name: choose_layers(members[name], task, inspection.input_size, patterns) for name in names
    }
    sums: dict[Pair, Tensor] = {}
    images = 0
    copies = InferenceCopies()
    console = Console(stderr=True)
    with evaluating(*members.values()):
        for data in track(loader, 'CKA', total=len(loader), console=console, transient=True):
            batch = model.data_preprocessor(data, False)
            inputs = batch['inputs']
            if len(inputs) < FEWEST_IMAGES:
                continue
            images += len(inputs)
            grams = {
                name: _grams(
                    *(members[name], task, member_inputs(model, name, batch), list(layers[name])),
                    *(pool, copies),
                )
                for name in names
            }
            for a, b in {*pairs, *zip(names, names, strict=True)}:
                term = len(inputs) * unbiased_hsic(grams[a], grams[b])
                sums[a, b] = sums.get((a, b), torch.zeros_like(term)) + term
    if not images:
        raise ValueError(
            f'Invalid batches: expected at least {FEWEST_IMAGES} images, got fewer in all batches. '
            'Increase the batch size'
        )
    return pd.concat([_table(pair, layers, sums, images) for pair in pairs], ignore_index=True)


def _grams(
    member: nn.Module,
    task: Task,
    inputs: Tensor,
    layers: Sequence[str],
    pool: int | None,
    copies: InferenceCopies,
) -> Tensor:
    """Compute the Gram matrices (I, N, N) of I layers; the feature maps are freed on return."""

    def run(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
        with TapRecorder(network, layers) as taps:
            task.logits(network, images)
            return {name: taps[name] for name in layers}

    features = run(copies.of(member, run, inputs), inputs)
    if pool is not None:
        features = {name: _pooled(member, name, x, inputs, pool) for name, x in features.items()}
    return torch.stack([centered_gram(features[name]) for name in layers])


def _pooled(member: nn.Module, name: str, features: Tensor, inputs: Tensor, pool: int) -> Tensor:
    """Pool a map; the other tokens of a transformer than those of its grid are left out."""
    layout = layout_of(member, name, (1, *features.shape[1:]), inputs.shape[2:])
    if layout is None or len(features) != len(inputs):
        return features
    features = layout.to_map(features)
    height, width = features.shape[2:]
    return F.adaptive_avg_pool2d(features, (min(height, pool), min(width, pool)))


def _table(
    pair: Pair, layers: Mapping[str, dict[str, str]], sums: Mapping[Pair, Tensor], images: int
) -> pd.DataFrame:
    a, b = pair
    own, other = (sums[name, name].diagonal() for name in pair)
    # For a constant layer, the term is a rounding error of either sign.
    spread = torch.outer(own, other).clamp(min=0).sqrt()
    values = (sums[pair] / spread).where(spread > 0, torch.nan).tolist()
    rows: list[list[Any]] = [
        [a, *row, b, *column, value, images]
        for row, line in zip(layers[a].items(), values, strict=True)
        for column, value in zip(layers[b].items(), line, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)
