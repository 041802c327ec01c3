"""Loops, checkpoint files, random states and signals of runs that stop and resume."""
