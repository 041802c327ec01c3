"""Do mixed styles help? Five folds over all 110 patients of LGG; docs/studies/lgg_cv/protocol.md"""

from mmkdml.experiments import variant_runs

title = 'LGG at 64x64, small U-Nets, 5 folds by patient'
measures = ['IoU', 'F1']
paper_tables = ['Table 4']
seeds = [0, 1]
folds = 5
amp = True
_of_paper = dict(config='configs/study/lgg_cv.py', teacher='teacher', weights_of='Table 4')
runs = [
    dict(name='teacher', config='configs/study/lgg_cv_teacher.py'),
    *variant_runs(**_of_paper, modes=('kdml',), styles=('v3', 'v1')),
    dict(name='students_alone', config='configs/study/lgg_cv_students_alone.py'),
    dict(name='kd_x2', config='configs/study/lgg_cv_kd_x2.py', teacher='teacher'),
    *variant_runs(**_of_paper, modes=('ml',), styles=('v3',)),
]
claims = [
    dict(
        entry='kdml_v3',
        competitors=[other],
        measure='IoU',
        text=f'KD+ML v3 is better than {name}',
        primary=True,
    )
    for other, name in (
        ('kdml_v1', 'KD+ML v1'),
        ('students_alone', 'two students trained alone'),
        ('kd_x2', 'two students trained by plain KD'),
    )
]
