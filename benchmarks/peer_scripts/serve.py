"""Protocol of the peers of ``python -m benchmarks peers``; needs torch and the standard library.

A peer reads a line for each training step and writes JSON objects, one per line: the first when
everything is built, then one with the loss of each step. Other lines are ignored.
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


def serve(build):
    """Take a training step for each line of input until the input ends.

    `build(problem, method)` receives the output of `problem.py` and `kd` or `fitnet`, and returns a
    function that takes a training step and returns its loss.
    """
    parser = argparse.ArgumentParser(description='Take a training step for each line of input.')
    parser.add_argument('problem', help='file written by problem.py')
    parser.add_argument('method', choices=('kd', 'fitnet'))
    parser.add_argument(
        '--keep-freed-memory', action='store_true', help='as in a training run of mmkdml'
    )
    args = parser.parse_args()
    if args.keep_freed_memory and not MEMORY['keep_freed_memory']():
        sys.exit('--keep-freed-memory is not supported by this C library')
    before = MEMORY['peak_memory_mib']()
    step = build(torch.load(args.problem, weights_only=True), args.method)
    _reply(ready=True)
    for _ in sys.stdin:
        loss = step()
        _reply(loss=loss, memory=MEMORY['peak_memory_mib']() - before)


def _reply(**fields):
    print(json.dumps(fields), flush=True)
