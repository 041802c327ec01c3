"""Bound today's p-values of the studies from their committed files.

Run ``python docs/studies/recompute_claims.py`` in the root of the repository.

The counts of each case are not part of the repository, so the part of the cases in the variance of
a difference is unknown. It is at least 0, and about at most the variance of the published bootstrap
interval, which contains cases and seeds. A verdict that both bounds agree on is determined.
"""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from prettytable import PrettyTable, TableStyle
from scipy.stats import norm

from mmkdml.experiments import RunRecord, SuiteRecord, evaluate_claims
from mmkdml.experiments.paper.claims import ALPHA, HOLDS, OPPOSITE, UNDECIDED
from mmkdml.files import write_atomically
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.counts import Counts
from mmkdml.statistics.differences import (
    Comparison,
    SeedVariance,
    Tested,
    Variance,
    correct_p_values,
    over_seeds,
    pool_seeds,
)

STUDIES = ('lgg64', 'ham64', 'methods_lgg64', 'methods_ham64', 'bccd192')
KINDS = {ENSEMBLE: ENSEMBLE, PLAIN: ENSEMBLE, TEACHER: TEACHER}
HEAD = """# Claims recomputed with the pooled seed variance

Bounds of p after Holm's correction, from `seeds.csv` and the intervals of `claims.md`: *seeds only*
ignores the variation over cases, *seeds and interval* adds the whole variance of the published
interval. The verdict is *not determined* if they disagree. Written by
`docs/studies/recompute_claims.py`.

"""


def published(study: Path) -> dict[tuple[str, str], tuple[float, float, int, str]]:
    """Read low, high, groups and verdict of each claim and measure."""
    found = {}
    for line in (study / 'claims.md').read_text().splitlines():
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        ends = re.search(r'\[(\S+), (\S+)\]', line)
        if ends:
            groups = int(re.search(r'(\d+) groups', line)[1])
            verdict = next(c for c in cells if c in (HOLDS, OPPOSITE, UNDECIDED))
            found[cells[0], cells[1]] = (float(ends[1]), float(ends[2]), groups, verdict)
    return found


def pooled(entry, other, values) -> SeedVariance:
    """Pool the seed variance of a difference over the runs of the study."""
    if entry[0] == other[0]:
        pairs = [(name, entry[1], other[1]) for name, member in values if member == entry[1]]
        rows = {
            tuple(values[name, one] - values[name, two]): name
            for name, one, two in pairs
            if (name, two) in values
        }
        return pool_rows(rows, shared=True)
    pools = [
        pool_rows(
            {
                tuple(row): name
                for (name, member), row in values.items()
                if KINDS.get(member, 'student') == KINDS.get(one[1], 'student')
            }
        )
        for one in (entry, other)
    ]
    return pools[0] + pools[1]


def pool_rows(rows, shared=False) -> SeedVariance:
    """Pool rows, whose degrees of freedom are those of the number of runs."""
    runs, seeds = len(set(rows.values())), len(next(iter(rows)))
    return replace(pool_seeds(np.array(list(rows)), shared), runs=runs, df=(runs - 1) * (seeds - 1))


def bounds(claim, values, interval) -> list[Comparison]:
    """Test a claim without and with the variance of its published interval."""
    low, high, groups, _ = interval
    width = (high - low) / (2 * norm.ppf(0.975))
    found = []
    for cases in (0.0, width**2):
        tests = []
        for other in claim.contrast.competitors:
            differences = values[claim.contrast.entry] - values[other]
            without = over_seeds(differences, None, pooled(claim.contrast.entry, other, values))
            variances = tuple(
                Variance(one.seeds, one.seeds_df, np.asarray(cases), groups - 1)
                for one in without.variances
            )
            tests.append(Tested(without.value, variances))
        found.append(Comparison(tests))
    return found


def recompute(study: Path) -> str:
    """Return the text of ``claims_recomputed.md`` of a study."""
    seeds = pd.read_csv(study / 'seeds.csv', keep_default_na=False)
    best = seeds[seeds['checkpoint'] == 'best']
    runs = [
        RunRecord(name, seed, mode, style, 'done')
        for name, seed, mode, style in dict.fromkeys(
            best[['run', 'seed', 'mode', 'style']].itertuples(index=False, name=None)
        )
    ]
    measures = tuple(dict.fromkeys(best['measure']))
    record = SuiteRecord(study.name, study.name, measures, (), runs)
    old = published(study)
    table = PrettyTable(
        ['claim', 'measure', 'difference', 'p: seeds only', 'p: seeds and interval', 'was', 'is'],
        align='l',
    )
    table.set_style(TableStyle.MARKDOWN)
    counted: dict[tuple[str, str], int] = {}
    for measure in measures:
        of_measure = best[best['measure'] == measure].sort_values('seed')
        values = {
            entry: rows['value'].to_numpy() for entry, rows in of_measure.groupby(['run', 'member'])
        }
        claims = evaluate_claims(record, measure, 'best', counts=Counts('', {}))
        claims = [one for one in claims if (one.text, measure) in old]
        tested = [bounds(one, values, old[one.text, measure]) for one in claims]
        p = np.array([[float(one.p) for one in both] for both in tested])
        for family in {one.family for one in claims}:
            rows = [i for i, one in enumerate(claims) if one.family == family]
            for side in (0, 1):
                p[rows, side] = correct_p_values(p[rows, side])
        for claim, both, corrected in zip(claims, tested, p, strict=True):
            value = float(both[0].value)
            decided = HOLDS if value > 0 else OPPOSITE
            verdicts = {decided if one < ALPHA else UNDECIDED for one in corrected}
            verdict = verdicts.pop() if len(verdicts) == 1 else 'not determined'
            was = old[claim.text, measure][3]
            counted[was, verdict] = counted.get((was, verdict), 0) + 1
            table.add_row(
                [claim.text, measure, f'{value:+.2f}', *(f'{one:.4f}' for one in corrected), was,
                 verdict]
            )  # fmt: skip
    summary = ', '.join(f'{n} {was} -> {now}' for (was, now), n in sorted(counted.items()))
    print(f'{study.name}: {summary}')
    return f'{HEAD}{summary}.\n\n{table.get_string()}\n'


if __name__ == '__main__':
    for name in STUDIES:
        folder = Path(__file__).parent / name
        write_atomically(folder / 'claims_recomputed.md', recompute(folder).encode())
