"""SemCKD with the networks and data of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.semckd_classification import model as method
    from .ham64 import *

method['transfers'][1]['loss'].update(batch_size=16)
model = dict(method, **small_pair)
