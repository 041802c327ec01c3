"""All modes with mixed styles on hippocampus MRI of the Decathlon, 5 folds; see docs/studies/."""

from mmkdml.experiments import variant_runs

title = 'Hippocampus at 64x48, small U-Nets on slices, 5 folds by patient, scored in 3-D'
measures = ['Dice', 'HD95', 'NSD']
seeds = [0]
folds = 5
amp = True
_half, _some, _third = (0.5, 0.5), (0.4, 0.4), (0.3, 0.3)
runs = [
    dict(name='teacher', config='configs/study/hippocampus_teacher.py'),
    dict(name='student', config='configs/study/hippocampus_student.py'),
    *variant_runs(
        'configs/study/hippocampus.py',
        teacher='teacher',
        weights_of=dict(
            ml=dict(alpha=_half, gamma=_half),
            kd_off=dict(alpha=_half, beta=_half),
            kd_on=dict(alpha=_half, beta=_half),
            kdml=dict(alpha=_some, beta=_third, gamma=_third),
        ),
        styles=('v3',),
    ),
]
