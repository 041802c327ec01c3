"""Each stage of the first student has its own learning rate, by MMSegmentation's constructor."""

_base_ = 'classroom.py'

network = dict(
    _base_.student,
    backbone=dict(
        type='mmpretrain.ConvNeXt',
        arch=dict(depths=[1, 1, 1, 1], channels=[8, 16, 32, 64]),
        out_indices=[0, 1, 2, 3],
        gap_before_final_norm=False,
    ),
)
model = dict(
    students=[network, _base_.student],
    projectors={
        'teacher->student_1': dict(resize=True),
        'student_2->student_1': dict(type='mmkdml.InterpolateProjector'),
        'student_1->student_2': dict(type='mmkdml.InterpolateProjector'),
    },
)
optim_wrapper = dict(
    optimizer=dict(weight_decay=0.05),
    constructor='mmkdml.MemberOptimWrapperConstructor',
    members=dict(
        student_1=dict(
            constructor='mmseg.LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_rate=0.5, decay_type='stage_wise', num_layers=4),
        )
    ),
)
