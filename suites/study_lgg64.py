"""All twelve variants and both baselines on LGG at 64x64, three seeds; see docs/studies/."""

from mmkdml.experiments import variant_runs

title = 'LGG at 64x64, small U-Nets, split by patient'
measures = ['IoU', 'F1']
seeds = [0, 1, 2]
amp = True
runs = [
    dict(name='teacher', config='configs/study/lgg64_teacher.py'),
    dict(name='student', config='configs/study/lgg64_student.py'),
    *variant_runs('configs/study/lgg64.py', teacher='teacher', weights_of='Table 4'),
]
