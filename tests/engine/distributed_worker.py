"""One process of ``test_processes.py``: python distributed_worker.py RANK STORE FOLDER"""

import json
import os
import signal
import sys
from pathlib import Path

import conftest
import torch.distributed as dist
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

RUNS = {
    'epochs': {},
    'iterations': dict(by_epoch=False),
    'accumulated': dict(accumulate=4),
    'different seeds': dict(different=True),
}


class Statistics(Hook):
    """What of batch norm the validations use, in each process."""

    def __init__(self):
        self.seen = []

    def before_val_iter(self, runner, *_, **__):
        self.seen.append(runner.model.module.norm.running_mean.tolist())


def went_on(folder, rank, stopped_at, **settings):
    """Stopped by a signal to one process, and resumed."""
    # Of the hooks that are called at the end of an iteration, the one that stops is the last.
    stop = ('train', stopped_at, signal.SIGTERM) if rank == 1 else None
    try:
        conftest.start(folder, stop, parallel=True, **settings)
    except SystemExit as leaving:
        code = leaving.code
    conftest.start(
        folder, load_from=folder / 'interrupted.pth', resume=True, parallel=True, **settings
    )
    return code


def outcome(rank, folder):
    statistics = Statistics()
    runners = {
        name: conftest.start(
            folder / name / 'undisturbed',
            parallel=True,
            hooks=[statistics] if name == 'epochs' else [],
            **settings,
        )
        for name, settings in RUNS.items()
    }
    codes = [
        went_on(folder / name / 'resumed', rank, 3, **settings) for name, settings in RUNS.items()
    ]
    try:
        conftest.start(folder / 'unequal', parallel=True, round_up=False)
    except ValueError as error:
        refused = str(error)
    network = runners['epochs'].model.module
    return dict(
        statistics=statistics.seen,
        seen=[batch.tolist() for batch in network.seen],
        codes=codes,
        refused=refused,
    )


if __name__ == '__main__':
    rank, store, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
    os.environ['LOCAL_RANK'] = str(rank)
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)
    both = all_gather_object(outcome(rank, folder))
    if rank == 0:
        (folder / 'found.json').write_text(json.dumps(both))
    dist.barrier()
    dist.destroy_process_group()
