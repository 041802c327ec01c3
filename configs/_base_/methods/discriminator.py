"""SKD's third part, as CIRKD adds it to SKD, IFVD and CWD: a discriminator of logits.

It has an optimiser of its own. Logits must have 64x64 pixels or more.
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
