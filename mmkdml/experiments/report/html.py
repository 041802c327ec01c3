"""HTML report of suites, in one self-contained file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkdml.commands import tool_command
from mmkdml.console import in_words
from mmkdml.experiments.paper.claims import ALPHA
from mmkdml.experiments.report import labels
from mmkdml.experiments.report.answer import VERDICTS
from mmkdml.experiments.report.metadata import check_metadata
from mmkdml.experiments.report.sections import build_section
from mmkdml.experiments.report.tables import CHECKPOINT_TITLES
from mmkdml.files import write_atomically
from mmkdml.html import Link, render_page
from mmkdml.statistics.differences import FEWEST_RUNS
from mmkdml.statistics.records import DONE, SuiteRecord

#: Parts of a section: end of the HTML id, and title.
PARTS = {
    'answer': 'Summary',
    'results': 'Results',
    'claims': 'Claims',
    'curves': 'Learning curves',
    'cases': 'Cases',
    'costs': 'Costs',
    'data': 'Data',
    'reproduce': 'Reproducibility',
}

LAZY_NOTE = (
    'loaded when it comes into view, by the script of this page. Without scripts, use the commands '
    'under Reproducibility.'
)


def write_report(
    records: SuiteRecord | Sequence[SuiteRecord],
    path: str | Path,
    suite_files: Sequence[str | Path] | None = None,
    resamples: int = 0,
) -> Path:
    """Write summary, tables, claims, curves, cases, costs and commands of suites to one HTML file.

    The file works offline and without scripts. It is written atomically.

    Args:
        records: One or several suites, finished or not.
        path: File to write; missing folders are created.
        suite_files: File of each suite, as written in the commands that repeat the suite. Default:
            ``suites/<name>.py``.
        resamples: See :func:`mmkdml.statistics.bootstrap.estimate`.

    Returns:
        The path.

    Raises:
        ValueError: If there are no suites, the number of suite files differs, ``path`` is a
            folder, the metadata of a run is invalid, or a suite is invalid (see
            :func:`~mmkdml.experiments.report.tables.build_table`).
    """
    suites = [records] if isinstance(records, SuiteRecord) else list(records)
    files = [f'suites/{suite.name}.py' for suite in suites] if suite_files is None else suite_files
    if not suites or len(files) != len(suites):
        raise ValueError(
            'Invalid suites: expected at least one suite and one file for each, got '
            f'{len(suites)} suites and {len(files)} files'
        )
    for run in [run for suite in suites for run in suite.runs if run.state == DONE]:
        check_metadata(run)
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'Invalid path {path}: expected a file for the report, got a folder')
    sections = [
        build_section(suite, f'suite-{place}', str(file), resamples)
        for place, (suite, file) in enumerate(zip(suites, files, strict=True), start=1)
    ]
    contents = [
        Link(
            section.anchor,
            section.record.name,
            [Link(f'{section.anchor}-{part}', title) for part, title in PARTS.items()],
        )
        for section in sections
    ]
    html = render_page(
        Path(__file__).parent / 'templates/report.html.j2',
        '; '.join(suite.title for suite in suites),
        contents if len(contents) > 1 else contents[0].parts,
        sections=sections,
        suite_command=tool_command('suite'),
        parts=PARTS,
        confidence=1 - ALPHA,
        fewest_runs=FEWEST_RUNS,
        checkpoint_titles=CHECKPOINT_TITLES,
        labels=labels,
        in_words=in_words,
        verdict_kinds=VERDICTS,
        lazy_note=LAZY_NOTE,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Logs in it may contain bytes that are not valid text.
    write_atomically(path, html.encode(errors='backslashreplace'))
    return path
