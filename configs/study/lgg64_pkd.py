"""PKD with the networks and data of lgg64.py, at the decoder maps of equal channels."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.pkd_segmentation import blocks
    from .._base_.methods.pkd_segmentation import model as method
    from .lgg64 import *

method['transfers'][0].update(source_tap=blocks[:2], learner_tap=blocks[:2])
model = dict(method, **small_pair)
