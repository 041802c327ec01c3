"""U-Nets with a ResNet50 teacher and two ResNet18 students, 224x224."""

from mmengine.config import read_base

with read_base():
    from .r50_r18x2_segmentation import model

model.update(input_size=(224, 224))
