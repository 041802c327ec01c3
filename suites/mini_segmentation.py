"""All twelve variants on the demo data for two epochs, to try a suite in minutes."""

from mmkdml.experiments import variant_runs

title = 'Segmentation of synthetic slices, two epochs: only a trial'
measures = ['IoU', 'F1']
seeds = [0, 1]
options = {'train_cfg.max_epochs': 2, 'param_scheduler.T_max': 2}
runs = [
    dict(name='teacher', config='configs/demo/teacher_demo.py'),
    dict(name='student', config='configs/demo/student_demo.py'),
    *variant_runs('configs/demo/kdml_v3_demo.py', teacher='teacher', weights_of='Table 4'),
]
