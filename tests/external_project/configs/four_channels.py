"""Images with four channels, in NumPy files."""

_base_ = 'classroom.py'

images = dict(
    img_suffix='.npy',
    data_prefix=dict(img_path='sequences', seg_map_path='masks'),
    pipeline=[
        dict(type='mmkdml.LoadMultiChannelImage', channels=4),
        dict(type='LoadAnnotations'),
        dict(type='PackSegInputs'),
    ],
)
train_dataloader = dict(dataset=images)
val_dataloader = dict(dataset=images)
test_dataloader = dict(dataset=images)

network = dict(_base_.student, backbone=dict(_base_.student['backbone'], in_channels=4))
model = dict(
    teacher=dict(backbone=dict(in_channels=4)),
    students=[network, network],
    data_preprocessor=dict(
        type='mmkdml.MultiChannelSegDataPreProcessor', mean=[50.0] * 4, std=[40.0] * 4
    ),
)
