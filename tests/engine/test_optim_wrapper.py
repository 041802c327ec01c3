import copy
import time

import pytest
import torch
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper, has_fast_bf16, optim_wrapper


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 1, 3))


def step(model, wrapper, inputs):
    with wrapper.optim_context(model):
        output = model(inputs)
    wrapper.update_params(output.float().pow(2).mean())
    return output


def test_forward_is_bfloat16_and_weights_stay_float32():
    model = network()
    before = copy.deepcopy(model.state_dict())
    wrapper = CPUAmpOptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-2))
    assert step(model, wrapper, torch.randn(2, 3, 8, 8)).dtype == torch.bfloat16
    assert not torch.is_autocast_enabled('cpu')
    assert all(
        p.dtype == torch.float32 and not torch.equal(p, before[name])
        for name, p in model.named_parameters()
    )


def test_steps_match_float32_up_to_bfloat16_precision():
    inputs = torch.randn(2, 3, 8, 8)
    gradients = []
    for autocast in (True, False):
        model = network()
        with torch.autocast('cpu', torch.bfloat16, enabled=autocast):
            loss = model(inputs).float().pow(2).mean()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    model = network()
    wrapper = CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0))
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    step(model, wrapper, inputs)
    taken = before - torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.allclose(taken, gradients[0], atol=1e-6)
    assert torch.nn.functional.cosine_similarity(taken, gradients[1], dim=0) > 0.99


def test_gradients_accumulate():
    model = network()
    wrapper = CPUAmpOptimWrapper(torch.optim.SGD(model.parameters(), lr=1.0), accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = copy.deepcopy(model.state_dict())
    step(model, wrapper, torch.randn(2, 3, 8, 8))
    assert torch.equal(model[0].weight, before['0.weight'])
    step(model, wrapper, torch.randn(2, 3, 8, 8))
    assert not torch.equal(model[0].weight, before['0.weight'])


@pytest.mark.parametrize('cost', [dict(bfloat16=1, float32=8), dict(bfloat16=8, float32=1)])
@pytest.mark.parametrize(
    ('capabilities', 'known'),
    [
        (dict(amx_bf16=True, avx512_bf16=False), True),
        (dict(amx_bf16=False, avx512_bf16=True), True),
        (dict(amx_bf16=False, avx512_bf16=False, avx512_f=True, amx_int8=True), False),
        (dict(architecture='aarch64', bf16=True), False),
    ],
)
def test_bfloat16_is_fast_with_instructions_and_units(monkeypatch, capabilities, known, cost):
    def convolution(images, weight, padding):
        assert torch.get_num_threads() == 1
        end = time.thread_time() + cost[str(images.dtype).removeprefix('torch.')] * 1e-3
        while time.thread_time() < end:
            pass

    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: capabilities, raising=False)
    monkeypatch.setattr(optim_wrapper.functional, 'conv2d', convolution)
    threads = torch.get_num_threads()
    assert has_fast_bf16() is (known and cost['bfloat16'] < cost['float32'])
    assert torch.get_num_threads() == threads


def test_speed_of_bfloat16_is_measured_on_this_cpu():
    assert 0.01 < optim_wrapper._bf16_speedup() < 100


def test_bfloat16_is_not_fast_with_unknown_capabilities(monkeypatch):
    monkeypatch.delattr(torch.cpu, 'get_capabilities', raising=False)
    assert has_fast_bf16() is False
