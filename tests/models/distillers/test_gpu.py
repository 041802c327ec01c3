"""Tests that need a GPU."""

import pytest
import torch
from mmengine.optim import AmpOptimWrapper

from mmkdml.models import KnowledgeDistiller, Transfer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_mixed_precision_step_with_a_frozen_teacher(task, dtype):
    distiller = KnowledgeDistiller(
        members=dict(teacher=task.teacher(), student=task.student()),
        transfers=[
            Transfer('teacher', 'student', kind, 1.0) for kind in ('predictions', 'features')
        ],
        frozen=dict(teacher=None),
        input_size=(32, 32),
    ).cuda()
    frozen = distiller.named_members()['teacher']
    assert {parameter.device.type for parameter in frozen.parameters()} == {'cuda'}
    wrapper = AmpOptimWrapper(
        optimizer=torch.optim.Adam(distiller.parameters(), lr=1e-3), dtype=dtype
    )
    inputs, samples = task.batch()
    losses = distiller.train_step(
        dict(inputs=inputs.cuda(), data_samples=[sample.cuda() for sample in samples]), wrapper
    )
    assert all(torch.isfinite(value).all() for value in losses.values())


def test_losses_equal_those_on_a_cpu(task):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    distiller = KnowledgeDistiller(
        members=dict(teacher=task.teacher(), student=task.student()),
        transfers=[
            Transfer('teacher', 'student', kind, 1.0) for kind in ('predictions', 'features')
        ],
        input_size=(32, 32),
    ).eval()
    inputs, samples = task.batch()
    expected = distiller(inputs, samples, mode='loss')
    found = distiller.cuda()(inputs.cuda(), [sample.cuda() for sample in samples], mode='loss')
    for key, value in expected.items():
        torch.testing.assert_close(found[key].cpu(), value, rtol=1e-3, atol=1e-5)
