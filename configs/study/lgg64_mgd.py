"""MGD with the networks and data of lgg64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.mgd_segmentation import model as method
    from .lgg64 import *

model = dict(method, **small_pair)
