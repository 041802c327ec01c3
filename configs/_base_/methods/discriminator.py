"""Discriminator of logits, the third term of SKD, which CIRKD adds to SKD, IFVD and CWD.

It has a separate optimizer. Logits must have at least 64x64 pixels.
"""

from mmengine.config import read_base
from torch.optim import Adam

from mmkdml.engine import DiscriminatorOptimWrapperConstructor
from mmkdml.models import HolisticLoss

with read_base():
    from .segmentation import predictions

holistic = dict(
    predictions, weight=0.001, loss=dict(type=HolisticLoss, kind='hinge', discriminator_weight=0.1)
)
own_optimizer = dict(
    constructor=DiscriminatorOptimWrapperConstructor,
    discriminator_optimizer=dict(type=Adam, lr=4e-4, betas=(0.9, 0.99)),
)
