"""Protocol of the peers of ``python -m benchmarks peers``; requires only PyTorch.

For each line of input a peer runs a training step. It writes JSON objects, one per line: the first
when everything is built, then one with the loss and memory of each step. Other lines are ignored.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path

import torch

MEMORY = runpy.run_path(str(Path(__file__).parents[2] / 'mmkdml' / 'engine' / 'memory.py'))


def import_torchvision():
    """Import PyPI's torchvision next to a CPU build of torch, as `mmkdml/compat.py` does."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library('torchvision', 'DEF')
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        torch._mmkdml_keeps = library


def mmengine_step(model, optim_wrapper, problem):
    """Build the training step of a classifier or distiller with mmengine's interface."""
    from mmpretrain.structures import DataSample

    samples = [DataSample().set_gt_label(label) for label in problem['labels']]

    def step():
        with optim_wrapper.optim_context(model):
            losses = model(problem['inputs'], samples, mode='loss')
        total = model.parse_losses(losses)[0]
        optim_wrapper.update_params(total)
        return total.item()

    return step


def serve(build):
    """Run a training step for each line of input until the input ends.

    `build(problem, method)` is called with the content of `problem.py`'s file and `kd` or `fitnet`,
    and returns a function that runs a training step and returns its loss; with `--fast`, it is also
    called with `fast=True`.
    """
    parser = argparse.ArgumentParser(description='Run a training step for each line of input.')
    parser.add_argument('problem', help='file written by problem.py')
    parser.add_argument('method', choices=('kd', 'fitnet'))
    parser.add_argument(
        '--keep-freed-memory', action='store_true', help='keep freed memory, as mmkdml does'
    )
    parser.add_argument('--fast', action='store_true', help='use the speed-ups of the package')
    args = parser.parse_args()
    if args.keep_freed_memory and not MEMORY['keep_freed_memory']():
        sys.exit('Invalid --keep-freed-memory: this C library does not support it')
    before = MEMORY['peak_memory_mib']()
    options = dict(fast=True) if args.fast else {}
    step = build(torch.load(args.problem, weights_only=True), args.method, **options)
    _reply(ready=True)
    for _ in sys.stdin:
        loss = step()
        _reply(loss=loss, memory=MEMORY['peak_memory_mib']() - before)


def _reply(**fields):
    print(json.dumps(fields), flush=True)
