"""DKD as in the code of mdistiller for CIFAR-100, instead of plain KD, without its warm-up.

For at least three classes: with two it is plain KD.
"""

from mmengine.config import read_base

from mmkdml.models import DKDLoss

with read_base():
    from .classification import model, predictions

model.update(
    transfers=[dict(predictions, loss=dict(type=DKDLoss, alpha=1.0, beta=8.0, temperature=4.0))]
)
