"""Table 9 of the paper, with the baselines of Table 2: LGG, two U-Nets on MobileNet."""

from mmkdml.experiments import variant_runs

title = 'LGG, two U-Nets on MobileNet'
measures = ['IoU', 'F1']
paper_tables = ['Table 9', 'Table 2']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_lgg.py'),
    dict(name='mbv1', config='configs/baselines/mbv1_lgg.py'),
    *variant_runs('configs/{mode}/r50_mbv1x2_{style}_lgg.py', teacher='r50'),
]
