"""All twelve variants on the demo data for six epochs, to try a suite in minutes."""

from mmkdml.experiments import variant_runs

title = 'Classification of synthetic slices, six epochs: only a trial'
measures = ['accuracy', 'precision', 'recall']
seeds = [0, 1]
options = {'train_cfg.max_epochs': 6, 'param_scheduler.T_max': 6}
runs = [
    dict(name='teacher', config='configs/demo/teacher_demo_slices.py'),
    dict(name='student', config='configs/demo/student_demo_slices.py'),
    *variant_runs('configs/demo/kdml_v3_demo_slices.py', teacher='teacher', weights_of='Table 3'),
]
