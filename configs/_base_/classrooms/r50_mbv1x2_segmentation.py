"""U-Nets with a ResNet50 teacher and two MobileNet students."""

from mmengine.config import read_base

with read_base():
    from ..networks.unets import unet_mobilenet
    from .r50_r18x2_segmentation import model

model['students'] = [unet_mobilenet, unet_mobilenet]
