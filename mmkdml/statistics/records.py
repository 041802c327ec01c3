"""Results of a suite's runs, the input of tables, statistics and reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

CHECKPOINTS = ('best', 'last')
DONE, FAILED, RUNNING, WAITING = STATES = ('done', 'failed', 'running', 'waiting')
BASELINE, COMPARISON = 'baseline', 'comparison'
NO_CURVES = pd.DataFrame(columns=['epoch', 'key', 'value'])
T = TypeVar('T')

Logged = tuple[Sequence[str], np.ndarray, np.ndarray, np.ndarray]
"""Keys of curves; and for each logged value the index of its key, the epoch and the value."""


class Lazy:
    """Base class of records with attributes that are loaded when they are used."""

    if not TYPE_CHECKING:  # otherwise misspelled attributes would be valid

        def __getattr__(self, name: str) -> Any:
            load = self.__dict__.get('_loaders', {}).get(name)
            if load is None:
                raise AttributeError(f'{type(self).__name__} has no attribute {name}')
            return load()


def lazily(kind: type[T], values: Mapping[str, Any], loaders: Mapping[str, Callable[[], Any]]) -> T:
    """Build a record of a suite whose other attributes are loaded at each use.

    Args:
        kind: Class of the record, derived from :class:`Lazy`.
        values: Attributes that are known.
        loaders: Functions that load the others, which are not kept.
    """
    record = object.__new__(kind)
    record.__dict__.update(values, _loaders=loaders)
    return record


@dataclass(frozen=True)
class Measurement(Lazy):
    """Test results of one checkpoint.

    Attributes:
        metrics: Results of the config's evaluator, keys ``'<member>/<metric>'``.
        cases: Predictions of each member for each image, see :class:`mmkdml.evaluation.CaseTable`.
            Columns for classification: ``member, id, group, truth, pred``, with ``label`` and one
            row per class if images can have several; for segmentation: ``member, id, group, label,
            tp, fp, fn`` in pixels, one row per foreground class; for detection: ``member, id,
            group, label, rank, score, hits, ignored, boxes``, one row per predicted box, and one
            per image and class with the number of true boxes.
        summary: Counts that were computed when the run ended, a
            :class:`~mmkdml.statistics.counts.Summary`; None if they are computed from ``cases``.
    """

    metrics: Mapping[str, float]
    cases: pd.DataFrame
    summary: Any = None


@dataclass(frozen=True)
class RunRecord(Lazy):
    """One run: a config with a seed.

    Attributes:
        name: Name of the run in its suite, the same for all seeds (``kdml_v3``).
        seed: Random seed.
        mode: ``ml``, ``kd_off``, ``kd_on`` or ``kdml``; ``baseline`` for a single network;
            ``comparison`` for any other classroom.
        style: ``v1``, ``v2`` or ``v3``; empty for a baseline or comparison.
        state: One of :data:`STATES`.
        error: Failure reason, the last lines of the log; None if the run has not failed.
        measured: Measurements of a finished run by checkpoint, ``best`` (on the validation split)
            and ``last``.
        curves: Logged values of a finished run, columns ``epoch, key, value``: training losses
            (``loss``, ``student_1.loss_from_teacher.features``...), learning rate ``lr`` and
            validation metrics (``ensemble/foreground/IoU``...).
        metadata: Metadata of a finished run: ``config`` (file), ``config_text``, ``command`` (that
            repeats the run), ``seconds`` (of training and testing), ``device``, ``versions`` (by
            package), ``splits`` (``images``, ``groups``... by split), ``input_size``
            (H, W), ``members`` (``parameters``, ``flops`` by member), and ``checkpoints`` (epoch or
            iteration of ``best`` and ``last``).
        pictures: PNG files of hooks and analysis tools by path relative to the run's folder.
        folds: Number of folds of a cross-validation, whose results the record pools; 1 without.
    """

    name: str
    seed: int
    mode: str
    style: str
    state: str
    error: str | None = None
    measured: Mapping[str, Measurement] = field(default_factory=dict)
    curves: pd.DataFrame = field(default_factory=lambda: NO_CURVES)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, Path] = field(default_factory=dict)
    folds: int = 1

    @property
    def logged(self) -> Logged:
        """The curves as arrays, which are loaded faster."""
        if load := self.__dict__.get('_loaders', {}).get('logged'):
            return load()
        codes, keys = pd.factorize(self.curves['key'])
        return list(keys), codes, self.curves['epoch'].to_numpy(), self.curves['value'].to_numpy()

    @cached_property
    def curve_keys(self) -> Sequence[str]:
        """Keys of the curves; those of stored runs are known without the curves."""
        return self.logged[0]


@dataclass(frozen=True)
class SuiteClaim:
    """A claim that a suite states before it is run: one entry is better than others.

    Attributes:
        entry: Run and member that is claimed to be better. An empty member is the ensemble, or the
            model of a single network.
        competitors: Runs and members, each of which has to be exceeded.
        measure: Name of the measure; empty for all measures of the suite.
        text: The claim in words; empty for one that is built from the names.
        primary: Whether the suite was planned for this claim. p-values of primary claims are
            corrected together, and those of the others.
    """

    entry: tuple[str, str]
    competitors: tuple[tuple[str, str], ...]
    measure: str = ''
    text: str = ''
    primary: bool = False


@dataclass(frozen=True)
class SuiteRecord:
    """All runs of a suite, finished or not.

    Attributes:
        name: Name of the suite.
        title: One-line description.
        measures: Measures in its tables, names from :data:`mmkdml.statistics.measures.MEASURES`.
        paper_tables: Tables of the paper with the same rows and columns, e.g. ``'Table 4'``.
        runs: Runs in the order of the suite, all seeds of a name together.
        pictures: PNG files that compare runs, by path relative to the suite's folder.
        claims: The suite's own claims, in addition to those of the paper.
    """

    name: str
    title: str
    measures: Sequence[str]
    paper_tables: Sequence[str]
    runs: Sequence[RunRecord]
    pictures: Mapping[str, Path] = field(default_factory=dict)
    claims: Sequence[SuiteClaim] = ()
