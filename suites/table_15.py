"""Table 15 of the paper, with the baselines of Table 13: HAM10000, two U-Nets on ResNet18."""

from mmkdml.experiments import variant_runs

title = 'HAM10000, two U-Nets on ResNet18'
measures = ['IoU', 'F1']
paper_tables = ['Table 15', 'Table 13']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_ham10000_seg.py'),
    dict(name='r18', config='configs/baselines/r18_ham10000_seg.py'),
    *variant_runs('configs/{mode}/r50_r18x2_{style}_ham10000_seg.py', teacher='r50'),
]
