"""DKD with the networks and data of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.dkd_classification import model as method
    from .ham64 import *

model = dict(method, **small_pair)
