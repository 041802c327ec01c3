"""Table 8 of the paper, with the baselines of Table 2: PCam, two MobileNets."""

from mmkdml.experiments import variant_runs

title = 'PCam, two MobileNets'
measures = ['accuracy']
paper_tables = ['Table 8', 'Table 2']
seeds = [0, 1, 2]
runs = [
    dict(name='r50', config='configs/baselines/r50_c1024_pcam.py'),
    dict(name='mbv1', config='configs/baselines/mbv1_pcam.py'),
    *variant_runs('configs/{mode}/r50_mbv1x2_{style}_pcam.py', teacher='r50'),
]
