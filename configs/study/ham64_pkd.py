"""PKD with the networks and data of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.pkd_classification import model as method
    from .ham64 import *

model = dict(method, **small_pair)
