"""Recent methods, not in the paper, on HAM10000 (lesions)."""

from mmkdml.experiments import comparison_runs, variant_runs

title = 'HAM10000, one U-Net on ResNet18 by plain KD and by each recent method, two by KD+ML v3'
measures = ['IoU', 'F1']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_ham10000_seg.py'),
    dict(name='r18', config='configs/baselines/r18_ham10000_seg.py'),
    *comparison_runs(
        'configs/comparisons/{method}_r50_r18_ham10000_seg.py',
        'segmentation',
        teacher='r50',
        methods=('kd', 'dist', 'mgd', 'pkd'),
    ),
    *variant_runs(
        'configs/{mode}/r50_r18x2_{style}_ham10000_seg.py',
        teacher='r50',
        modes=('kdml',),
        styles=('v3',),
    ),
]
