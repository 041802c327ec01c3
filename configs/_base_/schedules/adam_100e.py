"""Adam with learning rate 1e-4 as in the paper, which does not state the number of epochs."""

from mmengine.optim import OptimWrapper
from mmengine.runner import EpochBasedTrainLoop, TestLoop, ValLoop
from torch.optim import Adam

optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=Adam, lr=1e-4))
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=100, val_interval=1)
val_cfg = dict(type=ValLoop)
test_cfg = dict(type=TestLoop)
