"""All twelve variants, baselines, and three and four students on BCCD; see docs/studies/."""

from mmkdml.experiments import variant_runs

title = 'BCCD at 192 pixels, small ATSS detectors, published split'
measures = ['AP', 'AP50']
seeds = [0, 1, 2]
_half, _some, _third = (0.5, 0.5), (0.4, 0.4), (0.3, 0.3)
_weights = dict(
    ml=dict(alpha=_half, gamma=_half),
    kd_off=dict(alpha=_half, beta=_half),
    kd_on=dict(alpha=_half, beta=_half),
    kdml=dict(alpha=_some, beta=_third, gamma=_third),
)
runs = [
    dict(name='teacher', config='configs/study/bccd192_teacher.py'),
    dict(name='student', config='configs/study/bccd192_student.py'),
    dict(name='students_alone', config='configs/study/bccd192_students_alone.py'),
    *variant_runs('configs/study/bccd192.py', teacher='teacher', weights_of=_weights),
    dict(name='kdml_v1_x3', config='configs/study/bccd192_kdml_v1_x3.py'),
    dict(name='kdml_v1_x4', config='configs/study/bccd192_kdml_v1_x4.py'),
]
