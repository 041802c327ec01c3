"""KD+ML v3 with classifiers of MMPretrain for images with several classes."""

_base_ = ['mmkdml::_base_/schedules/adam_30e.py', 'mmpretrain::_base_/default_runtime.py']
custom_imports = dict(imports=['mmkdml.models', 'mmkdml.engine', 'mmkdml.evaluation', 'shapes'])

student = dict(
    type='mmpretrain.ImageClassifier',
    backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=8, base_channels=8),
    neck=dict(type='mmpretrain.GlobalAveragePooling'),
    head=dict(type='mmpretrain.MultiLabelLinearClsHead', num_classes=2, in_channels=64),
)
teacher = dict(
    student,
    backbone=dict(student['backbone'], stem_channels=16, base_channels=16),
    head=dict(student['head'], in_channels=128),
)
model = dict(
    type='mmkdml.DiversifiedKDMLDistiller',
    mode='kdml',
    style='v3',
    teacher=teacher,
    students=[student, student],
    projectors={'teacher->student_1': dict(type='mmkdml.ConvProjector')},
    weights=dict(alpha=(0.4, 0.4), beta=(0.3, 0.3), gamma=(0.3, 0.3)),
    input_size=(32, 32),
    data_preprocessor=dict(
        type='mmpretrain.ClsDataPreprocessor',
        num_classes=2,
        to_onehot=True,
        mean=[60.0] * 3,
        std=[40.0] * 3,
    ),
)

loader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='mmpretrain.MultiLabelDataset',
        data_root='data/val',
        ann_file='labels.json',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='PackInputs')],
    ),
)
train_dataloader = dict(
    loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(loader['dataset'], data_root='data/train'),
)
val_dataloader = loader
test_dataloader = dict(loader, dataset=dict(loader['dataset'], data_root='data/test'))
val_evaluator = dict(type='mmkdml.MemberMetrics', metric=dict(type='mmpretrain.MultiLabelMetric'))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=2)
randomness = dict(seed=3)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(
        type='CheckpointHook', interval=1, save_best='ensemble/multi-label/f1-score', rule='greater'
    ),
)
