"""One process of ``test_distributed.py``: python distributed_worker.py RANK STORE OUT WHAT

``variants``: both processes build each variant alike, run half of a batch through
DistributedDataParallel, and compare the averaged gradients with those of the whole batch in one
process. ``methods``: the compared methods, whose gradients are compared between the processes,
for most of them compare the images of a batch or bring batch norms along.
"""

import itertools
import json
import sys

from mmkdml.models import MODES, STYLES, DiversifiedKDMLDistiller  # isort: split

import conftest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmseg.models.losses import CrossEntropyLoss
from torch import nn


def build(task, mode, style):
    """A variant in float64. Batch norm in eval mode, for its statistics are of the local batch."""
    if task == 'classification':
        teacher, student = conftest.classifier(width=6, block=32), conftest.classifier()
    else:
        # Dice is a ratio of sums over the batch, so its halves do not average to the whole.
        teacher, student = conftest.segmentor(width=6), conftest.segmentor()
        for member in (teacher, student):
            member['decode_head']['loss_decode'] = dict(type=CrossEntropyLoss, use_sigmoid=True)
    weights = dict(alpha=(0.3, 0.7))
    if mode != 'ml':
        weights['beta'] = (0.2, 0.4)
    if mode in ('ml', 'kdml'):
        weights['gamma'] = (0.5, 0.1)
    torch.manual_seed(0)
    distiller = DiversifiedKDMLDistiller(
        mode=mode,
        style=style,
        teacher=teacher,
        students=[student, student],
        weights=weights,
        input_size=(conftest.SIZE, conftest.SIZE),
    ).double()
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return distiller


def batch(task, part=slice(None)):
    inputs = conftest.images(8).double()[part]
    samples = (conftest.class_samples(8) if task == 'classification' else conftest.mask_samples(8))[
        part
    ]
    return inputs, samples


def gradients(model, inputs, samples):
    model.zero_grad()
    losses = model(inputs, samples, mode='loss')
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def largest_gap(task, mode, style, rank):
    part = slice(4 * rank, 4 * rank + 4)
    parallel = MMDistributedDataParallel(build(task, mode, style), device_ids=None)
    # An unused parameter would stop the second step: find_unused_parameters is off.
    for _ in range(2):
        found = gradients(parallel, *batch(task, part))
    expected = gradients(build(task, mode, style), *batch(task))
    wrapper = OptimWrapper(torch.optim.Adam(parallel.parameters(), lr=1e-3))
    with wrapper.optim_context(parallel):
        losses = parallel(*batch(task, part), mode='loss')
    wrapper.update_params(parallel.module.parse_losses(losses)[0])
    weights = torch.cat([p.detach().flatten() for p in parallel.parameters()])
    other = weights.clone()
    dist.broadcast(other, src=0)
    assert torch.equal(weights, other)
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def variants(rank):
    return {
        f'{task} {mode} {style}': largest_gap(task, mode, style, rank)
        for task, mode, style in itertools.product(
            ('classification', 'segmentation'), MODES, STYLES
        )
    }


def methods(rank):
    return {
        method: method_gaps(method, rank)
        for method in (*conftest.CLASSIFICATION, *conftest.SEGMENTATION)
    }


def method_gaps(method, rank):
    """How far the processes' gradients are apart, without and with the average over them."""
    part = slice(2 * rank, 2 * rank + 2)
    inputs, samples = conftest.compared_batch(method, 4)
    torch.manual_seed(0)
    distiller = conftest.compared(method).train()
    gaps = []
    for network in (distiller, MMDistributedDataParallel(distiller, device_ids=None)):
        # An unused parameter would stop the second step: find_unused_parameters is off.
        for _ in range(2):
            network.zero_grad()
            conftest.optimised(network(inputs[part], samples[part], mode='loss')).backward()
        trained = [p.grad for p in distiller.parameters() if p.requires_grad]
        flat = torch.cat([gradient.flatten() for gradient in trained])
        other = flat.clone()
        dist.broadcast(other, src=0)
        gaps.append(torch.tensor([(flat - other).abs().max()]))
        dist.all_reduce(gaps[-1], op=dist.ReduceOp.MAX)
    return [gap.item() for gap in gaps]


if __name__ == '__main__':
    rank, store, out, what = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    found = dict(variants=variants, methods=methods)[what](rank)
    if rank == 0:
        with open(out, 'w') as file:
            json.dump(found, file)
    dist.barrier()
    dist.destroy_process_group()
