"""Suites of runs: their file, database, workers and results."""
