"""What is known of the runs of a suite: the form in which tables, statistics and reports get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

CHECKPOINTS = ('best', 'last')
DONE, FAILED, RUNNING, WAITING = STATES = ('done', 'failed', 'running', 'waiting')
BASELINE, COMPARISON = 'baseline', 'comparison'


@dataclass(frozen=True)
class Measurement:
    """One checkpoint of a run on the test part.

    Attributes:
        metrics: Values of the config's own evaluator by ``'<member>/<metric>'``.
        cases: What each member said of each image, see :class:`mmkdml.evaluation.CaseTable`.
            Classification: ``member, id, group, truth, pred``; segmentation: ``member, id, group,
            label, tp, fp, fn``, a row for each foreground class, in pixels.
    """

    metrics: Mapping[str, float]
    cases: pd.DataFrame


@dataclass(frozen=True)
class RunRecord:
    """One run: one config with one seed.

    Attributes:
        name: Name of the run in its suite, shared by all its seeds (``kdml_v3``).
        seed: The seed.
        mode: ``ml``, ``kd_off``, ``kd_on`` or ``kdml``; ``baseline`` for a network alone;
            ``comparison`` for a classroom that is none of the paper's twelve.
        style: ``v1``, ``v2`` or ``v3``; empty for a baseline.
        state: One of :data:`STATES`.
        error: Why it failed, the last lines of its log; None if it did not.
        measured: For a run that is done: its measurement by checkpoint, ``best`` (on the validation
            part) and ``last``.
        curves: Long table ``epoch, key, value`` of what was logged: training losses (``loss``,
            ``student_1.loss_from_teacher.features``...), learning rate ``lr`` and the metrics of
            the validations (``ensemble/foreground/IoU``...). Empty if not done.
        metadata: How it was made: ``config`` (file), ``config_text``, ``command`` (repeats it by
            hand), ``seconds`` (of training and testing), ``device``, ``versions`` (package to
            version), ``splits`` (part to ``images``, ``groups``, ``positives``), ``input_size``
            (H, W), ``members`` (member to ``parameters``, ``flops``), ``checkpoints`` (``best``,
            ``last`` to the epoch, or iteration, of each). Empty if not done.
        pictures: PNG files that a test or a tool of analysis left in its folder, by their names
            within it.
    """

    name: str
    seed: int
    mode: str
    style: str
    state: str
    error: str | None = None
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    curves: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=['epoch', 'key', 'value'])
    )
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True)
class SuiteRecord:
    """All runs of a suite, done or not.

    Attributes:
        name: Name of the suite.
        title: One line that says what it is.
        measures: What its tables show, names from :data:`mmkdml.statistics.measures.MEASURES`.
        paper_tables: The paper's tables with the same cells (``('Table 4', 'Table 2')``); may be
            empty.
        runs: Runs in the order of the suite, all seeds of one name together.
        pictures: As of a run, those of several runs together.
    """

    name: str
    title: str
    measures: Sequence[str]
    paper_tables: Sequence[str]
    runs: Sequence[RunRecord]
    pictures: Mapping[str, Path] = field(default_factory=dict)
