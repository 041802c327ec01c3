"""Recent methods, not in the paper, on PCam."""

from mmkdml.experiments import comparison_runs, variant_runs

title = 'PCam, one ResNet18 by plain KD and by each recent method, two by KD+ML v3'
measures = ['accuracy']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_pcam.py'),
    dict(name='r18', config='configs/baselines/r18_pcam.py'),
    *comparison_runs(
        'configs/comparisons/{method}_r50_r18_pcam.py',
        'classification',
        teacher='r50',
        methods=('kd', 'dist', 'mgd', 'pkd'),
    ),
    *variant_runs(
        'configs/{mode}/r50_r18x2_{style}_pcam.py', teacher='r50', modes=('kdml',), styles=('v3',)
    ),
]
