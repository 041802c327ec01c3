"""MGD: a ResNet50 teaches a ResNet18, on lesions of HAM10000."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_seg import *
    from .._base_.methods.mgd_segmentation import model
    from .._base_.schedules.adam_30e import *

model['frozen'].update(teacher='work_dirs/baselines/r50_ham10000_seg')
model.update(input_size=(224, 224))
