"""The report of suites: one HTML file that works from a disk, without a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mmkdml.experiments.paper.claims import ALPHA, UNDECIDED
from mmkdml.experiments.report.metadata import check_metadata
from mmkdml.experiments.report.sections import chapter_of
from mmkdml.experiments.report.tables import SHOWN
from mmkdml.experiments.suites.progress import in_words
from mmkdml.files import write_atomically
from mmkdml.statistics.bootstrap import RESAMPLES
from mmkdml.statistics.records import DONE, SuiteRecord
from mmkdml.version import __version__


def write_report(
    records: SuiteRecord | Sequence[SuiteRecord],
    path: str | Path,
    suite_files: Sequence[str | Path] | None = None,
    resamples: int = RESAMPLES,
) -> Path:
    """Writes tables, claims, curves, sizes, settings and commands of suites as one HTML file.

    The pictures are inside it, and there are no scripts. It is written beside its place and then
    renamed.

    Args:
        records: One suite or several, done or not.
        path: The file to write; folders are made.
        suite_files: The suites' files, for the commands that repeat them; ``suites/<name>.py`` by
            default.
        resamples: Of the bootstrap, see :func:`mmkdml.statistics.bootstrap.estimate`.

    Returns:
        The path.

    Raises:
        ValueError: If there are no suites, another number of files than of suites, or ``path`` is
            a folder; if the facts of a run are not whole; if the runs of a suite do not fit
            together, see :func:`~mmkdml.experiments.report.tables.build_table`.
    """
    suites = [records] if isinstance(records, SuiteRecord) else list(records)
    files = [f'suites/{suite.name}.py' for suite in suites] if suite_files is None else suite_files
    if not suites or len(files) != len(suites):
        raise ValueError(
            f'expected at least one suite and a file for each, got {len(suites)} suites and '
            f'{len(files)} files'
        )
    for run in [run for suite in suites for run in suite.runs if run.state == DONE]:
        check_metadata(run)
    path = Path(path)
    if path.is_dir():
        raise ValueError(f'expected a file to write the report to, but {path} is a folder')
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / 'templates'),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters['in_words'] = in_words
    html = environment.get_template('report.html.j2').render(
        chapters=[
            chapter_of(suite, f'suite-{place}', str(file), resamples)
            for place, (suite, file) in enumerate(zip(suites, files, strict=True), start=1)
        ],
        confidence=1 - ALPHA,
        resamples=resamples,
        shown=SHOWN,
        undecided=UNDECIDED,
        version=__version__,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # A log may hold bytes that are no text.
    write_atomically(path, html.encode(errors='backslashreplace'))
    return path
