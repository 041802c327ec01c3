"""Averaged weights, one step for two batches, and a stop after the second of four epochs."""

_base_ = 'classroom.py'
optim_wrapper = dict(accumulative_counts=2)
train_cfg = dict(max_epochs=4)
custom_hooks = [
    dict(type='EMAHook', momentum=0.1),
    # No improvement is large enough.
    dict(type='EarlyStoppingHook', monitor='student_1/mIoU', patience=1, min_delta=1000),
]
