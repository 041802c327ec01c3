"""The tokens of a ViT teach a ResNet."""

_base_ = 'classroom.py'

vit = dict(
    _base_.teacher,
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64),
        img_size=32,
        patch_size=8,
        out_type='featmap',
    ),
    decode_head=dict(_base_.teacher['decode_head'], in_channels=32, in_index=0),
)
model = dict(
    teacher=dict(_delete_=True, **vit),
    taps=dict(teacher='backbone.ln1'),  # a class token and 4x4 others
    projectors={
        'teacher->student_1': dict(
            _delete_=True, type='mmkdml.MapProjector', projector=dict(type='mmkdml.ConvProjector')
        )
    },
)
