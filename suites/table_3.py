"""Tables 3 and 11 of the paper, with the baselines of Table 2: PCam, two ResNet18."""

from mmkdml.experiments import variant_runs

title = 'PCam, two ResNet18'
measures = ['accuracy']
paper_tables = ['Table 3', 'Table 2', 'Table 11']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_pcam.py'),
    dict(name='r18', config='configs/baselines/r18_pcam.py'),
    *variant_runs('configs/{mode}/r50_r18x2_{style}_pcam.py', teacher='r50'),
]
