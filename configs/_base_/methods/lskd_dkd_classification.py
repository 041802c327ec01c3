"""DKD of standardized logits (LSKD) as in its code for CIFAR-100, without the warm-up of DKD.

For at least three classes: two standardized logits are constant.
"""

from mmengine.config import read_base

from mmkdml.models import DKDLoss, LSKDLoss

with read_base():
    from .classification import model, predictions

decoupled = dict(type=DKDLoss, alpha=1.0, beta=8.0, temperature=2.0)
model.update(transfers=[dict(predictions, weight=9.0, loss=dict(type=LSKDLoss, loss=decoupled))])
