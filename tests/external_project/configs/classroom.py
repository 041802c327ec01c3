"""KD+ML v3 with networks of MMSegmentation, the data set and the loss of this project."""

_base_ = [
    'mmkdml::_base_/schedules/adam_30e.py',
    'mmseg::_base_/models/fcn_r50-d8.py',
    'mmseg::_base_/default_runtime.py',
]
custom_imports = dict(imports=['mmkdml.models', 'mmkdml.engine', 'mmkdml.evaluation', 'shapes'])

student = dict(
    _base_.model,
    pretrained=None,
    data_preprocessor=None,
    backbone=dict(
        _base_.model.backbone, depth=18, stem_channels=8, base_channels=8, norm_cfg=dict(type='BN')
    ),
    decode_head=dict(
        _base_.model.decode_head,
        in_channels=64,
        channels=16,
        dropout_ratio=0.0,
        num_classes=3,
        norm_cfg=dict(type='BN'),
    ),
    auxiliary_head=None,
)
teacher = dict(
    student,
    backbone=dict(student['backbone'], stem_channels=16, base_channels=16),
    decode_head=dict(student['decode_head'], in_channels=128, channels=32),
)
model = dict(
    _delete_=True,
    type='mmkdml.DiversifiedKDMLDistiller',
    mode='kdml',
    style='v3',
    teacher=teacher,
    students=[student, student],
    losses=dict(features=dict(type='mmkdml.HuberFeatureLoss', delta=0.5)),
    projectors={'teacher->student_1': dict(type='mmkdml.ConvProjector')},
    weights=dict(alpha=(0.4, 0.4), beta=(0.3, 0.3), gamma=(0.3, 0.3)),
    input_size=(32, 32),
    data_preprocessor=dict(_base_.data_preprocessor, size=(32, 32)),
)

loader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='ShapesDataset',
        data_root='data/val',
        data_prefix=dict(img_path='images', seg_map_path='masks'),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations'),
            dict(type='PackSegInputs'),
        ],
    ),
)
train_dataloader = dict(
    loader,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        loader['dataset'],
        data_root='data/train',
        pipeline=[
            *loader['dataset']['pipeline'][:2],
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    ),
)
val_dataloader = loader
test_dataloader = dict(loader, dataset=dict(loader['dataset'], data_root='data/test'))
val_evaluator = dict(type='mmkdml.MemberMetrics', metric=dict(type='mmseg.IoUMetric'))
test_evaluator = val_evaluator

optim_wrapper = dict(optimizer=dict(lr=1e-3))
train_cfg = dict(max_epochs=2)
randomness = dict(seed=3)
log_processor = dict(by_epoch=True)
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=1),
    checkpoint=dict(type='CheckpointHook', interval=1, save_best='ensemble/mIoU', rule='greater'),
)
