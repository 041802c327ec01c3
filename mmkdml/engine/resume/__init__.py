"""Loops, hooks, checkpoint files, seeding and signals for stopping and resuming runs."""
