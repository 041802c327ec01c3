"""How a peer answers `tools/benchmark.py peers`; needs nothing but torch and the standard library.

A line comes in for each training step, a JSON object goes out: first one when all is built, then
one with the step's loss. Lines that are no such object (libraries talk) are passed over.
"""

import argparse
import json
import runpy
import sys
from pathlib import Path

import torch

MEMORY = runpy.run_path(str(Path(__file__).parents[2] / 'mmkdml' / 'engine' / 'memory.py'))


def import_torchvision():
    """As in `mmkdml/compat.py`: PyPI's torchvision beside a CPU build of torch."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library = torch.library.Library('torchvision', 'DEF')
        library.define('nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        library.define('qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor')
        torch._mmkdml_keeps = library


def serve(build):
    """Takes a step whenever a line comes in, until there are no more.

    `build(problem, method)` gets what `problem.py` wrote and `kd` or `fitnet`, and returns a
    function that takes a training step and returns its loss.
    """
    parser = argparse.ArgumentParser(description='Take a training step for each line of input.')
    parser.add_argument('problem', help='what problem.py wrote')
    parser.add_argument('method', choices=('kd', 'fitnet'))
    parser.add_argument(
        '--keep-freed-memory', action='store_true', help='as a training run of mmkdml does'
    )
    args = parser.parse_args()
    if args.keep_freed_memory and not MEMORY['keep_freed_memory']():
        sys.exit('The C library here cannot be told to keep freed memory; leave the option out')
    before = MEMORY['peak_memory_mib']()
    step = build(torch.load(args.problem, weights_only=True), args.method)
    _answer(ready=True)
    for _ in sys.stdin:
        loss = step()
        _answer(loss=loss, memory=MEMORY['peak_memory_mib']() - before)


def _answer(**fields):
    print(json.dumps(fields), flush=True)
