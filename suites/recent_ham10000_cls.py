"""Recent methods, not in the paper, on HAM10000 (diagnoses)."""

from mmkdml.experiments import comparison_runs, variant_runs

title = 'HAM10000, one ResNet18 by plain KD and by each recent method, two by KD+ML v3'
measures = ['accuracy', 'precision', 'recall']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_ham10000_cls.py'),
    dict(name='r18', config='configs/baselines/r18_ham10000_cls.py'),
    *comparison_runs(
        'configs/comparisons/{method}_r50_r18_ham10000_cls.py',
        'classification',
        teacher='r50',
        methods=('kd', 'dkd', 'dist', 'lskd', 'lskd_dkd', 'mgd', 'pkd'),
    ),
    *variant_runs(
        'configs/{mode}/r50_r18x2_{style}_ham10000_cls.py',
        teacher='r50',
        modes=('kdml',),
        styles=('v3',),
    ),
]
