"""Table 14 of the paper, with the baselines of Table 13: HAM10000, seven classes, two ResNet18."""

from mmkdml.experiments import variant_runs

title = 'HAM10000, seven classes, two ResNet18'
measures = ['accuracy', 'precision', 'recall']
paper_tables = ['Table 14', 'Table 13']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_ham10000_cls.py'),
    dict(name='r18', config='configs/baselines/r18_ham10000_cls.py'),
    *variant_runs('configs/{mode}/r50_r18x2_{style}_ham10000_cls.py', teacher='r50'),
]
