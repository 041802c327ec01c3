"""Tables 4 and 12 of the paper, with the baselines of Table 2: LGG, two U-Nets on ResNet18."""

from mmkdml.experiments import variant_runs

title = 'LGG, two U-Nets on ResNet18'
measures = ['IoU', 'F1']
paper_tables = ['Table 4', 'Table 2', 'Table 12']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_lgg.py'),
    dict(name='r18', config='configs/baselines/r18_lgg.py'),
    *variant_runs('configs/{mode}/r50_r18x2_{style}_lgg.py', teacher='r50'),
]
