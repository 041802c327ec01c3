"""One process of ``test_distributed.py``: python distributed_worker.py RANK STORE OUT WHAT

``variants``: both processes build each variant alike and train it on halves of batches through
DistributedDataParallel; gradients and weights are compared with those of the whole batches in one
process. ``methods``: the compared methods, whose gradients are compared between the processes,
for most of them compare the images of a batch or bring batch norms along; and classrooms whose
weights change, whose gradients are compared with those of the whole batch in one process.
"""

import copy
import itertools
import json
import sys

from mmkdml.models import MODES, STYLES, DiversifiedKDMLDistiller, KnowledgeDistiller  # isort: split

import conftest
import torch
import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from torch import nn

from mmkdml.apis.cli.common import leave_process_group

STEPS = 8


def build(task, mode, style):
    """Build a variant with batch norm in eval mode, as its statistics are of the local batch."""
    if task == 'classification':
        teacher, student = conftest.classifier(width=6, block=32), conftest.classifier()
    else:
        teacher, student = conftest.segmentor(width=6), conftest.segmentor()
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
    )
    for module in distiller.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return distiller


def batch(task, part=slice(None), seed=0):
    """Batch of 8 images, whose halves have different shares of labels."""
    if task == 'classification':
        samples = conftest.class_samples(8)
    else:
        masks = [sample.gt_sem_seg.data[0] for sample in conftest.mask_samples(8, seed=seed)]
        masks = torch.stack([mask * (row > 2) for row, mask in enumerate(masks)])
        masks[5, :9] = 255
        samples = conftest.as_samples(masks)
    return conftest.images(8, seed)[part], samples[part]


def gradients(model, inputs, samples):
    model.zero_grad()
    conftest.optimized(model(inputs.double(), samples, mode='loss')).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def largest_gap(found, expected):
    return max((a - b).abs().max().item() for a, b in zip(found, expected, strict=True))


def trained(model, network, task, part=slice(None)):
    """Return the weights after some steps of SGD; Adam would amplify rounding errors."""
    wrapper = OptimWrapper(torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9))
    for step in range(STEPS):
        with wrapper.optim_context(model):
            losses = model(*batch(task, part, seed=step), mode='loss')
        wrapper.update_params(network.parse_losses(losses)[0])
    return [parameter.detach() for parameter in network.parameters()]


VARIANTS = [*itertools.product(('classification', 'segmentation'), MODES, STYLES)]


def learns_long(task, _, style):
    """Alternate between the tasks to save time."""
    return task == ('segmentation' if style == 'v3' else 'classification')


def single_process(which):
    """Return gradients in float64, and weights before and after some steps."""
    single = build(*which)
    double = copy.deepcopy(single)
    before = [parameter.detach().clone() for parameter in single.parameters()]
    found = gradients(double.double(), *batch(which[0]))
    return found, before, trained(single, single, which[0]) if learns_long(*which) else before


def variant(which, rank, expected):
    part = slice(4 * rank, 4 * rank + 4)
    single = build(*which)
    double = copy.deepcopy(single)
    found = gradients(
        MMDistributedDataParallel(double.double(), device_ids=None), *batch(which[0], part)
    )
    gaps = {}
    if learns_long(*which):
        parallel = MMDistributedDataParallel(single, device_ids=None)
        weights = trained(parallel, single, which[0], part)
        own = torch.cat([weight.flatten() for weight in weights])
        other = own.clone()
        dist.broadcast(other, src=0)
        gaps['processes'] = largest_gap([own], [other])
    if expected is not None:
        gaps['gradients'] = largest_gap(found, expected[0])
        if learns_long(*which):
            gaps['weights'] = largest_gap(weights, expected[2])
            gaps['learnt'] = largest_gap(weights, expected[1])
    return gaps


def variants(rank, expected):
    """Gather the gaps of both processes; unknown ones are 0."""
    own = {' '.join(which): variant(which, rank, expected.get(which)) for which in VARIANTS}
    both = [None, None]
    dist.all_gather_object(both, own)
    return {
        name: {
            gap: max(one[name].get(gap, 0) for one in both)
            for gap in {**both[0][name], **both[1][name]}
        }
        for name in own
    }


def methods(rank):
    return {
        method: method_gaps(method, rank)
        for method in (*conftest.CLASSIFICATION, *conftest.SEGMENTATION)
    }


def method_gaps(method, rank):
    """Return the differences of both processes' gradients, without and with averaging."""
    part = slice(2 * rank, 2 * rank + 2)
    inputs, samples = conftest.compared_batch(method, 4)
    torch.manual_seed(0)
    distiller = conftest.compared(method).train()
    gaps = []
    for network in (distiller, MMDistributedDataParallel(distiller, device_ids=None)):
        # The second step raises if a parameter is unused, as find_unused_parameters is off.
        for _ in range(2):
            network.zero_grad()
            conftest.optimized(network(inputs[part], samples[part], mode='loss')).backward()
        trained = [p.grad for p in distiller.parameters() if p.requires_grad]
        flat = torch.cat([gradient.flatten() for gradient in trained])
        other = flat.clone()
        dist.broadcast(other, src=0)
        gaps.append(torch.tensor([(flat - other).abs().max()]))
        dist.all_reduce(gaps[-1], op=dist.ReduceOp.MAX)
    return [gap.item() for gap in gaps]


CHANGING = ('schedule', 'UncertaintyWeighting', 'GradNorm')
ACTIVE = (0.5, 0.0, 0.0, 0.25)  # weights of the steps


def changing(kind):
    """Build a classroom, of whose student only one transfer reaches the last stage."""
    torch.manual_seed(0)
    student = conftest.classifier()
    learned = None if kind == 'schedule' else dict(type=kind, **(LAYER if 'G' in kind else {}))
    if kind == 'schedule':
        student['backbone']['out_indices'] = (2,)
        student['head']['in_channels'] = 16
    features = dict(
        source='teacher',
        learner='student',
        knowledge='features',
        learner_tap='backbone.layer4',
        projector=dict(type='ConvProjector'),
        weight=0.5,
    )
    if kind == 'schedule':
        features['weight'] = dict(base=0.5, schedule=dict(type='LinearWeight'))
    model = KnowledgeDistiller(
        members=dict(teacher=conftest.classifier(width=6, block=32), student=student),
        transfers=[features, {**PREDICTIONS, 'weight': 0.3}],
        frozen=dict(teacher=None),
        learned_weights=learned,
        input_size=(conftest.SIZE, conftest.SIZE),
    )
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    return model.double()


LAYER = dict(layer='backbone.layer4.1.conv1')
PREDICTIONS = dict(source='teacher', learner='student', knowledge='predictions')


def changing_gradients(kind, model, network, part=slice(None)):
    """Return the gradients of each step; the weights change as with SGD."""
    found = []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    for seed, weight in enumerate(ACTIVE):
        if kind == 'schedule':
            network.transfer_terms[0].set_weight(weight)
        inputs, samples = batch('classification', part, seed)
        found += gradients(model, inputs, samples)
        optimizer.step()
    return found


def changing_gaps(rank, expected):
    """Return the differences of the gradients from those of the whole batches."""
    gaps = {}
    for kind in CHANGING:
        network = changing(kind)
        parallel = MMDistributedDataParallel(network, device_ids=None)
        found = changing_gradients(kind, parallel, network, slice(4 * rank, 4 * rank + 4))
        gap = torch.tensor([largest_gap(found, expected[kind])])
        dist.all_reduce(gap, op=dist.ReduceOp.MAX)
        gaps[kind] = gap.item()
    return gaps


if __name__ == '__main__':
    rank, store, out, what = int(sys.argv[1]), *sys.argv[2:]
    torch.set_num_threads(1)
    # Computed before the process group exists, as sums are over all processes.
    if what == 'variants':
        expected = {which: single_process(which) for which in VARIANTS[rank::2]}
    else:
        rooms = {kind: changing(kind) for kind in CHANGING}
        expected = {kind: changing_gradients(kind, one, one) for kind, one in rooms.items()}
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    if what == 'variants':
        found = variants(rank, expected)
    else:
        found = dict(methods=methods(rank), changing=changing_gaps(rank, expected))
    if rank == 0:
        with open(out, 'w') as file:
            json.dump(found, file)
    leave_process_group()
