"""Database of a suite: one row per run, in any database that SQLAlchemy supports."""

from mmkdml.experiments.suites.store.rows import RunGroup, RunState
from mmkdml.experiments.suites.store.store import BLOCKED, DATABASE, SuiteStore

__all__ = ['BLOCKED', 'DATABASE', 'RunGroup', 'RunState', 'SuiteStore']
