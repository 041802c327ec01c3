"""Statistical tests of the claims of the paper and of a suite on its runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from prettytable import PrettyTable, TableStyle

from mmkdml.metric_info import METRIC_INFOS
from mmkdml.modes import FROM_TEACHER, MODES, STUDENTS, STYLES
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.bootstrap import Contrast, Estimate, estimate
from mmkdml.statistics.counts import Counts, Variants, count_cases, find_variants
from mmkdml.statistics.differences import correct_p_values
from mmkdml.statistics.measures import DETECTION, MEASURES
from mmkdml.statistics.records import BASELINE, COMPARISON, SuiteRecord

PRIMARY, SECONDARY = 'primary', 'secondary'
FAMILIES = {
    PRIMARY: 'Primary claims of the suite',
    SECONDARY: 'Secondary claims of the suite',
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
    """A claim and its test on the runs of a suite.

    Attributes:
        family: Key of :data:`FAMILIES`. p-values are corrected within a family and measure.
        text: The claim.
        measure: Name of the measure.
        checkpoint: ``'best'`` or ``'last'``.
        contrast: The run and member that is claimed to be better, and its competitors.
        estimate: Difference in percentage points; positive values support the claim.
        p_holm: p-value with Holm's correction; NaN if not computable or not tested.
        simultaneous: Interval with Bonferroni's correction: with the probability of the confidence
            level, all intervals of the family contain their true values.
        verdict: ``'holds'`` or ``'does not hold (opposite)'`` if the corrected p-value is below
            0.05, otherwise ``'undecided'``; ``'undecided (<reason>)'`` if it is not tested, e.g.
            with ``1 seed``; or ``'not computable: <reason>'``.
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
    resamples: int = 0,
    rng: int = 0,
    counts: Counts | None = None,
    variants: Variants | None = None,
) -> list[ClaimResult]:
    """Test the claims of a suite and of the paper on the runs of the suite.

    Each claim of the paper in :data:`FAMILIES` is tested for all modes, styles and methods of each
    variant of the suite, after the suite's own claims. The p-values of a family
    are corrected together, over all variants and without claims that are not tested. The last
    family, which compares single students with methods that have only one student, is not claimed
    by the paper.

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
    stated = [*_stated(record, measure), *_claims(record, variants)]
    claims = sorted(stated, key=lambda claim: list(FAMILIES).index(claim[0]))
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
        for index in chosen:
            simultaneous[index] = found[index].interval(1 - ALPHA / len(chosen))
        tested = [i for i in chosen if not found[i].undecided_reason]
        corrected = correct_p_values(np.array([found[i].p for i in tested]))
        for index, p in zip(tested, corrected, strict=True):
            p_holm[index] = float(p)
    return [
        ClaimResult(family, text, measure, checkpoint, contrast, one, p, ends, _verdict(one, p))
        for (family, text, contrast), one, p, ends in zip(
            claims, found, p_holm, simultaneous, strict=True
        )
    ]


def _stated(record: SuiteRecord, measure: str) -> Iterator[tuple[str, str, Contrast]]:
    """Yield the suite's own claims about a measure."""
    plain = {run.name for run in record.runs if run.mode == BASELINE}
    for claim in record.claims:
        if claim.measure not in ('', measure):
            continue
        entry, *competitors = (
            (run, member or (PLAIN if run in plain else ENSEMBLE))
            for run, member in (claim.entry, *claim.competitors)
        )
        names = [':'.join(filter(None, one)) for one in (claim.entry, *claim.competitors)]
        text = claim.text or f'{names[0]} is better than {" and ".join(names[1:])}'
        yield PRIMARY if claim.primary else SECONDARY, text, Contrast(entry, tuple(competitors))


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
    if found.undecided_reason:
        return f'{UNDECIDED} ({found.undecided_reason})'
    if p_holm >= ALPHA:
        return UNDECIDED
    return HOLDS if found.value > 0 else OPPOSITE


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
    infos = {one.measure: METRIC_INFOS[one.measure] for one in results}
    units = {info.difference_unit for info in infos.values()}
    unit = ' in '.join(['difference', *filter(None, units if len(units) == 1 else ())])
    table = PrettyTable(
        ['claim', 'measure', f'{unit} [95 % interval]', 'p', 'p (Holm)', 'verdict', 'based on'],
        align='l',
    )
    if not results:
        return f'{summarize_claims(results)}\n'
    table.set_style(_STYLES[form])
    for one in results:
        found = one.estimate
        values = ['-'] * 3
        if not found.undefined_reason:
            ends = (found.value, found.low, found.high)
            info = infos[one.measure]
            difference, low, high = (f'{end:+.{info.digits}f}' for end in ends)
            shown = [difference, info.difference_unit * (len(units) > 1), f'[{low}, {high}]']
            difference = ' '.join(filter(None, shown))
            p_values = (found.p, one.p_holm)
            values = [difference, *('-' if p != p else f'{p:.4f}' for p in p_values)]
        based_on = found.counted if found.groups else '-'
        table.add_row([one.text, one.measure, *values, one.verdict, based_on])
    return f'{summarize_claims(results)}\n\n{table.get_string()}\n'


def summarize_claims(results: Sequence[ClaimResult]) -> str:
    """Count claims by verdict, in a sentence."""
    if not results:
        return 'There are no claims about the runs of this suite.'
    outcomes = Counter(one.outcome for one in results)
    detection = any(DETECTION in MEASURES[one.measure].tasks for one in results)
    untested = sum(one.outcome == UNDECIDED and one.verdict != UNDECIDED for one in results)
    reason = f' ({untested} not tested, mostly with too few seeds or groups)' if untested else ''
    return (
        f'{outcomes[HOLDS]} of {len(results)} claims hold. Contradicted (the opposite holds): '
        f'{outcomes[OPPOSITE]}; undecided: {outcomes[UNDECIDED]}{reason}; not computable: '
        f'{outcomes[NOT_COMPUTABLE]}.'
        + (' The paper does not make them for detection.' if detection else '')
    )
