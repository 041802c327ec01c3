"""U-Nets with a ResNet50 teacher and two ResNet18 students."""

from mmengine.config import read_base

from mmkdml.models import DiversifiedKDMLDistiller

with read_base():
    from ..networks.unets import data_preprocessor, unet_resnet18, unet_resnet50

model = dict(
    type=DiversifiedKDMLDistiller,
    teacher=unet_resnet50,
    students=[unet_resnet18, unet_resnet18],
    temperature=2.0,
    kl_direction='learner||source',  # as in the paper; Hinton's is 'source||learner'
    kl_scale='none',  # as in the paper; Hinton's is 'temperature_squared'
    ensemble='union',
    input_size=(256, 256),
    data_preprocessor=data_preprocessor,
)
