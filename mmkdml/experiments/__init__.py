"""Suites of runs, their tables, statistics and reports, and the search for weights."""

from mmkdml.experiments.paper.claims import evaluate_claims, render_claims
from mmkdml.experiments.paper.values import paper_value
from mmkdml.experiments.paper.variants import comparison_runs, paper_weights, variant_runs
from mmkdml.experiments.report.html import write_report
from mmkdml.experiments.report.tables import FORMS, build_table, render
from mmkdml.experiments.suites.progress import in_words, progress
from mmkdml.experiments.suites.results import read_suite, run_suite
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import RunSpec, Suite, load_suite
from mmkdml.statistics.case_scores import case_scores
from mmkdml.statistics.counts import seed_scores
from mmkdml.statistics.records import CHECKPOINTS, Measurement, RunRecord, SuiteRecord

__all__ = [
    'CHECKPOINTS',
    'FORMS',
    'Measurement',
    'RunRecord',
    'RunSpec',
    'Suite',
    'SuiteRecord',
    'SuiteStore',
    'build_table',
    'case_scores',
    'comparison_runs',
    'evaluate_claims',
    'in_words',
    'load_suite',
    'paper_value',
    'paper_weights',
    'progress',
    'read_suite',
    'render',
    'render_claims',
    'run_suite',
    'seed_scores',
    'variant_runs',
    'write_report',
]
