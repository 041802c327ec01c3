from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import nn
from torch.optim import SGD, Adam

from mmkdml.engine import SeparateOptimizers
from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers, unwrap_optimizers
from mmkdml.models import MemberTTA
from mmkdml.registry import MODELS


def test_model_inside_a_wrapper():
    model = nn.Linear(1, 1)
    wrapped = object.__new__(MMDistributedDataParallel)  # Needs no process group.
    nn.Module.__init__(wrapped)
    wrapped.module = model
    assert unwrap_model(wrapped) is model
    assert unwrap_model(model) is model


def test_model_inside_test_time_augmentation():
    model = MODELS.build(
        dict(type='mmpretrain.ImageClassifier', backbone=dict(type='mmpretrain.LeNet5'))
    )
    assert unwrap_model(MemberTTA(MemberTTA(model))) is model


def test_optimizers_inside_wrappers():
    first, second, third = (nn.Linear(1, 1).parameters() for _ in range(3))
    plain = OptimWrapper(SGD(first, lr=1.0))
    parts = SGD(second, lr=1.0), Adam(third)
    separate = OptimWrapper(SeparateOptimizers(*parts))
    both = OptimWrapperDict(one=plain, other=separate)
    assert unwrap_optim_wrappers(plain) == [plain]
    assert unwrap_optim_wrappers(both) == [plain, separate]
    assert [*unwrap_optimizers(plain)] == [plain.optimizer]
    assert [*unwrap_optimizers(both)] == [plain.optimizer, *parts]
