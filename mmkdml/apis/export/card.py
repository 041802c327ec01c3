"""Model card of an export, as Markdown and JSON."""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import torch
from mmengine.config import Config

from mmkdml.apis.export.formats import CHECKPOINT, Exported, compare_int8, speed_ups
from mmkdml.apis.export.graph import sizes_in_words
from mmkdml.apis.export.source import ExportSource
from mmkdml.apis.machine import cpu_name
from mmkdml.datasets.splits import read_split, split_counts
from mmkdml.files import file_sha256
from mmkdml.inspection.complexity import member_complexities
from mmkdml.metric_info import PERCENT, metric_info
from mmkdml.models.distillers.renormalization import normalization
from mmkdml.models.ensembles import Ensemble, max_ensemble, union_ensemble, vote_ensemble
from mmkdml.names import SPLITS
from mmkdml.registry import DATASETS
from mmkdml.version import __version__

INTENDED_USE = (
    'Research on images like those of its training data. It is not a medical device and has not '
    'been shown to be safe or useful in patient care.'
)
LICENCE = (
    'Not specified. Weights may be subject to the terms of their training images and pretrained '
    'weights; the code of mmkdml is licensed under Apache-2.0.'
)

_TEMPLATE = """\
# {{ name | text }}

{{ task | capitalize }} by {{ networks | map(attribute='network') | join(' and ') | text }}
{%- if ensemble %}, combined by the ensemble rule `{{ ensemble }}`{% endif %}. Format: {{ format }}.

Classes: {{ classes | join(', ') | text or 'not named' }}. Input: {{ input }}
{% if needs %}
In addition to its framework, the checkpoint requires {{ needs | join(' and ') | text }}.
{% endif %}
## Intended use

{{ intended_use }}

## Licence

{{ licence }}

## Data

| data set | split file | images | groups |
| --- | --- | --- | --- |
{% for part, one in data.items() -%}
| {{ part }} | {{ (one.split_file or '?') | text }} | {{ one.images or '?' }} | \
{{ one.groups or '?' }} |
{% endfor %}
A group is a set of similar images, such as those of a patient or lesion.

## Quality on the test set
{% if scores %}
In percent, with 95 % intervals over groups.

| predictor | measure | value | interval | difference from the first |
| --- | --- | --- | --- | --- |
{% for one in scores -%}
| {{ one.member | text }} | {{ one.measure | text }} | {{ number(one.value) }} | \
{{ number(one.low) }} to {{ number(one.high) }} | \
{% if one.difference is defined and one.difference is not none -%}
{{ number(one.difference, '+') }} ({{ number(one.difference_low, '+') }} to \
{{ number(one.difference_high, '+') }}){% endif %} |
{% endfor %}{% else %}
Not measured.
{% endif %}
On {{ agreement.images }} images, scores differ from PyTorch's by at most \
{{ '%.2g' % agreement.max_difference }}, and \
{% if agreement.boxes is defined -%}
edges of boxes by at most {{ '%.2g' % agreement.max_box_difference }} pixels; \
{{ '%.2g' % (100 * agreement.other_labels) }} % of {{ agreement.boxes }} boxes have no match.
{%- else -%}
{{ '%.2g' % (100 * agreement.other_labels) }} % of the labels differ.
{%- endif %}

## Size and speed

| network | parameters (M) | GFLOPs (2 per multiply-add), {{ input_size | join('x') }} |
| --- | --- | --- |
{% for one in networks -%}
| {{ one.name | text }}: {{ one.network | text }} | {{ '%.2f' % (one.parameters / 1e6) }} | \
{{ '%.3f' % (one.flops / 1e9) }} |
{% endfor %}
| file | bytes | SHA-256 |
| --- | --- | --- |
{% for one in files -%}
| {{ one.name | text }} | {{ one.bytes }} | `{{ one.sha256 }}` |
{% endfor %}
| on {{ machine | text }} | ms per image | speed-up over the teacher |
| --- | --- | --- |
{% for what, time in latency_ms.items() -%}
| {{ what | text }} | {{ '%.2f' % time }} | {{ '%.2f' % speed_ups[what] if what in speed_ups }} |
{% endfor %}{% if int8_speed %}
{{ int8_speed }}
{% endif %}
Weights: {{ checkpoint.file | text }}, SHA-256 `{{ checkpoint.sha256 }}`.
{{ versions.items() | map('join', ' ') | join(', ') }}.
"""


def make_card(
    source: ExportSource,
    form: str,
    folder: Path,
    exported: Exported,
    latencies: Mapping[str, float],
    scores: pd.DataFrame | None = None,
    intended_use: str = INTENDED_USE,
    licence: str = LICENCE,
) -> dict[str, Any]:
    """Collect the content of a model card as JSON values.

    Args:
        source: The networks that were exported.
        form: One of :data:`~mmkdml.apis.export.formats.FORMATS`.
        folder: Folder of the exported files, all of which are listed.
        exported: Return value of :func:`mmkdml.apis.export.formats.export`.
        latencies: Milliseconds per image by predictor.
        scores: Scores of :func:`mmkdml.statistics.case_scores.case_scores`; None if not measured.
        intended_use: Text of this section.
        licence: Text of this section.
    """
    several = len(source.members) > 1
    kept = None if scores is None else scores.astype(object).where(scores.notna(), None)
    return dict(
        name=source.name,
        format=form,
        task=source.inspection.task.name,
        ensemble=source.inspection.task.name_of(source.ensemble) if several else None,
        classes=list(source.meta.get('classes') or ()),
        input=_input(source, form),
        input_size=list(source.inspection.input_size),
        normalization={
            name: normalization(source.preprocessor_of(name)) for name in source.members
        },
        needs=list(exported.needs),
        intended_use=intended_use,
        licence=licence,
        data=_data(source),
        scores=[] if kept is None else list(map(_with_unit, kept.to_dict('records'))),
        agreement=dataclasses.asdict(exported.agreement),
        networks=[
            dict(
                name=one.name,
                network=one.network,
                parameters=one.parameters,
                flops=2 * one.multiply_adds,
            )
            for one in member_complexities(
                dataclasses.replace(source.inspection, input_size=source.padded_size)
            )
            if one.name in source.members
        ],
        files=[
            dict(name=path.name, bytes=path.stat().st_size, sha256=file_sha256(path))
            for path in sorted(folder.iterdir())
        ],
        latency_ms=dict(latencies),
        speed_ups=speed_ups(latencies),
        int8_speed=compare_int8(latencies),
        machine=cpu_name(),
        checkpoint=dict(file=source.checkpoint.name, sha256=file_sha256(source.checkpoint)),
        versions=dict(
            mmkdml=__version__, torch=torch.__version__, python=platform.python_version()
        ),
    )


def write_card(card: Mapping[str, Any], folder: Path) -> None:
    """Write ``<name>.md`` and ``<name>.json``."""
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    environment.filters['text'] = _as_text
    template = environment.from_string(_TEMPLATE)
    (folder / f'{card["name"]}.md').write_text(template.render(**card, number=_number) + '\n')
    text = json.dumps(card, indent=2, default=float, allow_nan=False) + '\n'
    (folder / f'{card["name"]}.json').write_text(text)


def _with_unit(score: dict[str, Any]) -> dict[str, Any]:
    """Add the unit to the name of a measure that is not in percent."""
    info = metric_info(score['measure'])
    if info is None or info.unit == PERCENT:
        return score
    return {**score, 'measure': f'{score["measure"]} ({info.unit})'}


def _number(value: float | None, sign: str = '') -> str:
    return '?' if value is None else f'{value:{sign}.2f}'


def _as_text(value: Any) -> str:
    """Escape text for one table cell in Markdown."""
    return re.sub(r'([\\`*<>|\[\]])', r'\\\1', ' '.join(str(value).split()))


def _input(source: ExportSource, form: str) -> str:
    if form == CHECKPOINT:
        return 'see the test pipeline of the config.'
    if source.detects:
        return _input_of_detector(source)
    scores = 'probabilities'
    if len(source.members) > 1:
        maxima = "maxima of the students' probabilities, which need not sum to 1"
        kinds: dict[Ensemble, str] = {
            vote_ensemble: 'shares of votes',
            max_ensemble: maxima,
            union_ensemble: maxima,
        }
        scores = kinds.get(source.ensemble, scores)
    return f'{_images(source)}. Outputs: scores ({scores}) and labels.'


def _images(source: ExportSource) -> str:
    return (
        f'images (N, {source.channels}, H, W), '
        f'{"RGB" if source.channels == 3 else "channels in the order of the files"}, '
        f'{source.dtype}; preprocessing is part of the graph. H and W: {sizes_in_words(source)}'
    )


def _input_of_detector(source: ExportSource) -> str:
    ratio = (
        ', and keeps their aspect ratio'
        if any(step.get('keep_ratio') for step in _test_pipeline(source.config))
        else ''
    )
    network: Any = next(iter(source.members.values()))
    nms = (
        'selected boxes (N, M, 4) with scores and labels (N, M), filled up with -1'
        if source.nms
        else 'boxes of all P priors (N, P, 4) and scores (N, P, K), without non-maximum suppression'
    )
    return (
        f'{_images(source)}, to which the test pipeline resizes images{ratio}. Outputs: {nms}; '
        'x1, y1, x2, y2 in pixels of the input. Settings of the suppression: '
        f'{dict(network.test_cfg)}.'
    )


def _test_pipeline(config: Config) -> list[Any]:
    return list((config.get('test_dataloader') or {}).get('dataset', {}).get('pipeline') or [])


def _data(source: ExportSource) -> dict[str, dict[str, Any]]:
    """Describe the data sets of the config, with counts if their split files exist."""
    parts = {}
    for part in SPLITS:
        dataset = source.config.get(f'{part}_dataloader', {}).get('dataset', {})
        file = dataset.get('ann_file')
        kind = dataset.get('type')
        kind = kind if kind is None or isinstance(kind, type) else DATASETS.get(str(kind))
        counts = split_counts(read_split(file)) if file and Path(file).is_file() else {}
        parts[part] = dict(
            dataset=kind and kind.__name__,
            split_file=file,
            images=counts.get('images'),
            groups=counts.get('groups'),
        )
    return parts
