"""Execution of suites: workers, the queue of runs, their processes, and Ray."""
