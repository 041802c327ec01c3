"""Suites of runs, their tables, statistics and reports, and the tuning of loss weights."""

from typing import TYPE_CHECKING

from mmkdml.lazy import lazy_exports
from mmkdml.optional import check_extra

check_extra(
    *('mpltern', 'optuna', 'pydantic', 'scipy', 'sqlalchemy'),
    extra='experiments',
    purpose='suites, reports and tuning',
)

if TYPE_CHECKING:
    from mmkdml.console import in_words
    from mmkdml.experiments.paper.claims import evaluate_claims, render_claims
    from mmkdml.experiments.paper.values import paper_value
    from mmkdml.experiments.paper.variants import comparison_runs, paper_weights, variant_runs
    from mmkdml.experiments.report.html import write_report
    from mmkdml.experiments.report.tables import FORMS, build_table, render
    from mmkdml.experiments.run_spec import RunSpec
    from mmkdml.experiments.suites.execution.progress import progress
    from mmkdml.experiments.suites.execution.ray_engine import run_on_ray
    from mmkdml.experiments.suites.execution.run import run_suite
    from mmkdml.experiments.suites.read import read_suite
    from mmkdml.experiments.suites.store import SuiteStore
    from mmkdml.experiments.suites.suite import Suite, load_suite
    from mmkdml.statistics.case_scores import case_scores
    from mmkdml.statistics.counts import seed_scores
    from mmkdml.statistics.records import CHECKPOINTS, Measurement, RunRecord, SuiteRecord

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        '.paper.claims': ['evaluate_claims', 'render_claims'],
        '.paper.values': ['paper_value'],
        '.paper.variants': ['comparison_runs', 'paper_weights', 'variant_runs'],
        '.report.html': ['write_report'],
        '.report.tables': ['FORMS', 'build_table', 'render'],
        '.run_spec': ['RunSpec'],
        '.suites.execution.progress': ['progress'],
        '.suites.execution.ray_engine': ['run_on_ray'],
        '.suites.read': ['read_suite'],
        '.suites.execution.run': ['run_suite'],
        '.suites.store': ['SuiteStore'],
        '.suites.suite': ['Suite', 'load_suite'],
        'mmkdml.console': ['in_words'],
        'mmkdml.statistics.case_scores': ['case_scores'],
        'mmkdml.statistics.counts': ['seed_scores'],
        'mmkdml.statistics.records': ['CHECKPOINTS', 'Measurement', 'RunRecord', 'SuiteRecord'],
    },
)
