"""Database of a suite: one row per run, in any database that SQLAlchemy supports."""

from mmkdml.experiments.suites.store.rows import RunState
from mmkdml.experiments.suites.store.store import BLOCKED, DATABASE, SuiteStore

__all__ = ['BLOCKED', 'DATABASE', 'RunState', 'SuiteStore']
