"""A U-Net on ResNet50 teaches two on ResNet18, at 224x224."""

from mmengine.config import read_base

with read_base():
    from .r50_r18x2_segmentation import model

model.update(input_size=(224, 224))
