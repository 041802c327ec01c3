"""One optimizer step for two batches."""

_base_ = 'classroom.py'
optim_wrapper = dict(accumulative_counts=2)
