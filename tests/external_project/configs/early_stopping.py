"""No improvement is large enough, so the training stops after the second of four epochs."""

_base_ = 'classroom.py'
train_cfg = dict(max_epochs=4)
custom_hooks = [
    dict(type='EarlyStoppingHook', monitor='student_1/mIoU', patience=1, min_delta=1000)
]
