"""ATSS with a ResNet50 teacher and two ResNet18 students; an extension of the paper."""

from mmengine.config import read_base

from mmkdml.models import DiversifiedKDMLDistiller

with read_base():
    from ..networks.atss import atss_resnet18, atss_resnet50, data_preprocessor

model = dict(
    type=DiversifiedKDMLDistiller,
    teacher=atss_resnet50,
    students=[atss_resnet18, atss_resnet18],
    temperature=2.0,
    kl_direction='source||learner',
    kl_scale='none',
    ensemble='wbf',
    input_size=(480, 640),
    data_preprocessor=data_preprocessor,
)
