"""Recent methods on HAM10000 at 64x64, three seeds, in the setting of study_methods_ham64."""

from mmkdml.experiments import comparison_runs, variant_runs

title = 'HAM10000 at 64x64, seven classes: one student by each recent method, two by KD+ML v3'
measures = ['accuracy', 'precision', 'recall']
seeds = [0, 1, 2]
amp = True
runs = [
    dict(name='teacher', config='configs/study/ham64_teacher.py'),
    dict(name='student', config='configs/study/ham64_student.py'),
    *comparison_runs(
        'configs/study/ham64_{method}.py',
        'classification',
        teacher='teacher',
        methods=('kd', 'dkd', 'dist', 'lskd', 'lskd_dkd', 'mgd', 'pkd'),
    ),
    *variant_runs(
        'configs/study/ham64.py',
        teacher='teacher',
        weights_of='Table 14',
        modes=('kdml',),
        styles=('v3',),
    ),
]
