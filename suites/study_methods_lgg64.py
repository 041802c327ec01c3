"""Methods of Table 10 on LGG at 64x64, three seeds; see docs/studies/."""

from mmkdml.experiments import comparison_runs, variant_runs

title = 'LGG at 64x64, small U-Nets: one student by each method, and two by KD+ML v3'
measures = ['IoU', 'F1']
seeds = [0, 1, 2]
amp = True
runs = [
    dict(name='teacher', config='configs/study/lgg64_teacher.py'),
    dict(name='student', config='configs/study/lgg64_student.py'),
    *comparison_runs('configs/study/lgg64_{method}.py', 'segmentation', teacher='teacher'),
    dict(name='kd_x2', config='configs/study/lgg64_kd_x2.py', teacher='teacher'),
    *variant_runs(
        'configs/study/lgg64.py',
        teacher='teacher',
        weights_of='Table 4',
        modes=('kdml',),
        styles=('v3',),
    ),
]
