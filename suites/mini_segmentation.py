"""All twelve variants on the demo data for ten epochs, to try a suite in minutes."""

from mmkdml.experiments import variant_runs

title = 'Segmentation of synthetic slices, ten epochs: only a trial'
measures = ['IoU', 'F1']
seeds = [0, 1]
options = {'train_cfg.max_epochs': 10, 'param_scheduler.T_max': 10}
runs = [
    dict(name='teacher', config='configs/demo/teacher_demo.py'),
    dict(name='student', config='configs/demo/student_demo.py'),
    *variant_runs('configs/demo/kdml_v3_demo.py', teacher='teacher', weights_of='Table 4'),
]
# With the small supervised weights of the paper, students need more epochs to find any foreground.
_rest = {'ml': (None, 0.4), 'kd_off': (0.4, None), 'kd_on': (0.4, None), 'kdml': (0.2, 0.2)}
for _run in runs[2:]:
    _weights = (0.6, *_rest[_run['options']['model.mode']])
    for _letter, _weight in zip(('alpha', 'beta', 'gamma'), _weights, strict=True):
        _run['options'][f'model.weights.{_letter}'] = _weight and (_weight, _weight)
