"""All twelve variants on the demo data for ten epochs, to try a suite in minutes."""

from mmkdml.experiments import variant_runs

title = 'Segmentation of synthetic slices, ten epochs: only a trial'
measures = ['IoU', 'F1']
seeds = [0, 1]
options = {'train_cfg.max_epochs': 10, 'param_scheduler.T_max': 10}
# With the small supervised weights of the paper, students need more epochs to find any foreground.
_alpha, _rest, _both = (0.6, 0.6), (0.4, 0.4), (0.2, 0.2)
_weights = dict(
    ml=dict(alpha=_alpha, gamma=_rest),
    kd_off=dict(alpha=_alpha, beta=_rest),
    kd_on=dict(alpha=_alpha, beta=_rest),
    kdml=dict(alpha=_alpha, beta=_both, gamma=_both),
)
runs = [
    dict(name='teacher', config='configs/demo/teacher_demo.py'),
    dict(name='student', config='configs/demo/student_demo.py'),
    *variant_runs('configs/demo/kdml_v3_demo.py', teacher='teacher', weights_of=_weights),
]
