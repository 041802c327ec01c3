"""All modes and styles in the folds of study_lgg_cv.py, whose finished runs are used again."""

from mmkdml.experiments import variant_runs

title = 'LGG at 64x64, small U-Nets, 5 folds by patient, all modes and styles'
measures = ['IoU', 'F1']
seeds = [0, 1]
folds = 5
amp = True
work_dir = 'work_dirs/suites/study_lgg_cv'
runs = [
    dict(name='teacher', config='configs/study/lgg_cv_teacher.py'),
    *variant_runs('configs/study/lgg_cv.py', teacher='teacher', weights_of='Table 4'),
    dict(name='students_alone', config='configs/study/lgg_cv_students_alone.py'),
    dict(name='kd_x2', config='configs/study/lgg_cv_kd_x2.py', teacher='teacher'),
]
