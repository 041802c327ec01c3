"""Suites of runs: suite files, database, workers and results."""
