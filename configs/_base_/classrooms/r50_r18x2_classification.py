"""ResNet50 teacher and two ResNet18 students."""

from mmengine.config import read_base

from mmkdml.models import DiversifiedKDMLDistiller

with read_base():
    from ..networks.classifiers import data_preprocessor, resnet18, resnet50_for_resnet18

model = dict(
    type=DiversifiedKDMLDistiller,
    teacher=resnet50_for_resnet18,
    students=[resnet18, resnet18],
    temperature=2.0,
    kl_direction='learner||source',  # as in the paper; Hinton's is 'source||learner'
    kl_scale='none',  # as in the paper; Hinton's is 'temperature_squared'
    ensemble='max',
    input_size=(224, 224),
    data_preprocessor=data_preprocessor,
)
