"""All twelve variants and both baselines on HAM10000 at 64x64, three seeds; see docs/studies/."""

from mmkdml.experiments import variant_runs

title = 'HAM10000 at 64x64, seven classes, small networks, split by lesion'
measures = ['accuracy', 'precision', 'recall']
seeds = [0, 1, 2]
amp = True
runs = [
    dict(name='teacher', config='configs/study/ham64_teacher.py'),
    dict(name='student', config='configs/study/ham64_student.py'),
    *variant_runs('configs/study/ham64.py', teacher='teacher', weights_of='Table 14'),
]
