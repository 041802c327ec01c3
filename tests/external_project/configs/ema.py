"""Averaged weights are validated, tested and saved."""

_base_ = 'classroom.py'
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
