"""Statistical tests of the paper's claims on the runs of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from prettytable import PrettyTable, TableStyle
from statsmodels.stats.multitest import multipletests

from mmkdml.modes import FROM_TEACHER, MODES, STUDENTS, STYLES
from mmkdml.names import ENSEMBLE, TEACHER
from mmkdml.statistics.bootstrap import RESAMPLES, Contrast, Estimate, estimate
from mmkdml.statistics.counts import Counts, Variants, count_cases, find_variants
from mmkdml.statistics.measures import DETECTION, MEASURES
from mmkdml.statistics.records import COMPARISON, SuiteRecord

FAMILIES = {
    'style': 'v3 vs. v1 and v2 within a mode',
    'mode': 'kdml vs. ml, kd_off and kd_on within a style',
    'student': 'Ensemble vs. its better student',
    'teacher': 'Ensemble vs. teacher',
    'method': 'Ensemble of kdml v3 vs. each compared method',
    'single': 'One student of kdml v3 vs. each compared method (not claimed by the paper)',
}
HOLDS, OPPOSITE, UNDECIDED = 'holds', 'does not hold (opposite)', 'undecided'
NOT_COMPUTABLE = 'not computable'
ALPHA = 0.05
_STYLES = {'text': TableStyle.DEFAULT, 'markdown': TableStyle.MARKDOWN}


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the paper and its test on the runs of a suite.

    Attributes:
        family: Key of :data:`FAMILIES`. p-values are corrected within a family and measure.
        text: The claim.
        measure: Name of the measure.
        checkpoint: ``'best'`` or ``'last'``.
        contrast: The run and member that is claimed to be better, and its competitors.
        estimate: Difference in percentage points; positive values support the claim.
        p_holm: p-value with Holm's correction; NaN if not computable.
        simultaneous: Interval with Bonferroni's correction: with the probability of the confidence
            level, all intervals of the family contain their true values.
        verdict: ``'holds'`` or ``'does not hold (opposite)'`` if the corrected p-value is below
            0.05, otherwise ``'undecided'``; always ``'undecided (1 seed)'`` with a single seed, and
            likewise with a single group; or ``'not computable: <reason>'``.
    """

    family: str
    text: str
    measure: str
    checkpoint: str
    contrast: Contrast
    estimate: Estimate
    p_holm: float
    simultaneous: tuple[float, float]
    verdict: str

    @property
    def outcome(self) -> str:
        """The verdict without its reason."""
        return next(
            one
            for one in (HOLDS, OPPOSITE, UNDECIDED, NOT_COMPUTABLE)
            if self.verdict.startswith(one)
        )


def evaluate_claims(
    record: SuiteRecord,
    measure: str,
    checkpoint: str,
    resamples: int = RESAMPLES,
    rng: int = 0,
    counts: Counts | None = None,
    variants: Variants | None = None,
) -> list[ClaimResult]:
    """Test the paper's claims on the runs of a suite.

    Each claim of :data:`FAMILIES` is tested for all modes, styles and methods of each variant of
    the suite. The p-values of a family are corrected together, over all variants and without claims
    that are not computable. The last family, which compares single students with methods that have
    only one student, is not claimed by the paper.

    Args:
        record: The suite.
        measure: Name among :data:`~mmkdml.statistics.measures.MEASURES`.
        checkpoint: ``'best'`` or ``'last'``.
        resamples: See :func:`~mmkdml.statistics.bootstrap.estimate`.
        rng: See :func:`~mmkdml.statistics.bootstrap.estimate`.
        counts: Result of :func:`~mmkdml.statistics.counts.count_cases` for this checkpoint;
            computed if None.
        variants: Result of :func:`~mmkdml.statistics.counts.find_variants`; computed if None.

    Raises:
        ValueError: See :func:`~mmkdml.statistics.counts.count_cases`,
            :func:`~mmkdml.statistics.counts.find_variants` and
            :func:`~mmkdml.statistics.bootstrap.estimate`.
    """
    variants = find_variants(record) if variants is None else variants
    claims = sorted(_claims(record, variants), key=lambda claim: list(FAMILIES).index(claim[0]))
    contrasts = [contrast for *_, contrast in claims]
    counts = count_cases(record, checkpoint) if counts is None else counts
    found = estimate(counts, measure, contrasts, 1 - ALPHA, resamples, rng)
    p_holm = [float('nan')] * len(claims)
    simultaneous = [(float('nan'), float('nan'))] * len(claims)
    for family in FAMILIES:
        chosen = [
            i for i, one in enumerate(found) if claims[i][0] == family and not one.undefined_reason
        ]
        if not chosen:
            continue
        corrected = multipletests([found[i].p for i in chosen], method='holm')[1]
        tail = ALPHA / 2 / len(chosen)
        for index, p in zip(chosen, corrected, strict=True):
            low, high = np.quantile(found[index].distribution, (tail, 1 - tail))
            p_holm[index], simultaneous[index] = float(p), (float(low), float(high))
    return [
        ClaimResult(family, text, measure, checkpoint, contrast, one, p, ends, _verdict(one, p))
        for (family, text, contrast), one, p, ends in zip(
            claims, found, p_holm, simultaneous, strict=True
        )
    ]


def _claims(record: SuiteRecord, variants: Variants) -> Iterator[tuple[str, str, Contrast]]:
    methods: dict[str, dict[str, None]] = {}  # ordered as in the suite
    for run in record.runs:
        if run.mode == COMPARISON:
            methods.setdefault(run.name.rpartition('/')[0], {})[run.name] = None
    for variant, names in variants.items():
        head = f'{variant}: ' if variant else ''
        for mode in MODES:
            for other in STYLES[:-1]:
                pair = (mode, STYLES[-1]), (mode, other)
                if set(pair) <= set(names):
                    text = f'{head}{mode}: {STYLES[-1]} is better than {other}'
                    yield 'style', text, _of_ensembles(*(names[side] for side in pair))
        for style in STYLES:
            for other in MODES[:-1]:
                pair = (MODES[-1], style), (other, style)
                if set(pair) <= set(names):
                    text = f'{head}{style}: {MODES[-1]} is better than {other}'
                    yield 'mode', text, _of_ensembles(*(names[side] for side in pair))
        for mode, style in product(MODES, STYLES):
            if (mode, style) not in names:
                continue
            name = names[mode, style]
            better = f'{head}{mode} {style}: the ensemble is better than'
            students = tuple((name, student) for student in STUDENTS)
            yield 'student', f'{better} its better student', Contrast((name, ENSEMBLE), students)
            if FROM_TEACHER[mode]:
                teacher = ((name, TEACHER),)
                yield 'teacher', f'{better} the teacher', Contrast((name, ENSEMBLE), teacher)
        ours = names.get((MODES[-1], STYLES[-1]))
        if ours is None:
            continue
        for name in methods.get(variant, ()):
            method = name.rpartition('/')[2]
            yield 'method', f'{head}the ensemble is better than {method}', _of_ensembles(ours, name)
            for student in STUDENTS:
                contrast = Contrast((ours, student), ((name, ENSEMBLE),))
                yield 'single', f'{head}{student} is better than {method}', contrast


def _of_ensembles(better: str, other: str) -> Contrast:
    return Contrast((better, ENSEMBLE), ((other, ENSEMBLE),))


def _verdict(found: Estimate, p_holm: float) -> str:
    if found.undefined_reason:
        return f'{NOT_COMPUTABLE}: {found.undefined_reason}'
    if found.not_repeated:
        return f'{UNDECIDED} ({found.not_repeated})'
    if p_holm >= ALPHA:
        return UNDECIDED
    # p is computed from the resamples, whose sign may differ from that of the estimate.
    return HOLDS if np.median(found.distribution) > 0 else OPPOSITE


def render_claims(results: Sequence[ClaimResult], form: str) -> str:
    """Render claims as a table below a summary of the verdicts.

    Args:
        results: Results of :func:`evaluate_claims`, also of several measures.
        form: ``'text'`` or ``'markdown'``.

    Raises:
        ValueError: If the format is unknown.
    """
    if form not in _STYLES:
        raise ValueError(f'Invalid form: expected one of {", ".join(_STYLES)}, got {form!r}')
    table = PrettyTable(
        [
            'claim',
            'measure',
            'difference in points [95 % interval]',
            'p',
            'p (Holm)',
            'verdict',
            'based on',
        ],
        align='l',
    )
    if not results:
        return f'{summarize_claims(results)}\n'
    table.set_style(_STYLES[form])
    for one in results:
        found = one.estimate
        values = ['-'] * 3
        if not found.undefined_reason:
            difference = f'{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]'
            values = [difference, f'{found.p:.4f}', f'{one.p_holm:.4f}']
        based_on = found.counted if found.groups else '-'
        table.add_row([one.text, one.measure, *values, one.verdict, based_on])
    return f'{summarize_claims(results)}\n\n{table.get_string()}\n'


def summarize_claims(results: Sequence[ClaimResult]) -> str:
    """Count claims by verdict, in a sentence."""
    if not results:
        return 'The paper makes no claims about the runs of this suite.'
    outcomes = Counter(one.outcome for one in results)
    detection = any(DETECTION in MEASURES[one.measure].tasks for one in results)
    alone = sum(one.outcome == UNDECIDED and bool(one.estimate.not_repeated) for one in results)
    reason = f' ({alone} because of a single seed or group)' if alone else ''
    return (
        f'{outcomes[HOLDS]} of {len(results)} claims hold. Contradicted (the opposite holds): '
        f'{outcomes[OPPOSITE]}; undecided: {outcomes[UNDECIDED]}{reason}; not computable: '
        f'{outcomes[NOT_COMPUTABLE]}.'
        + (' The paper does not make them for detection.' if detection else '')
    )
