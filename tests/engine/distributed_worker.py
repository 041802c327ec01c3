"""One process of ``test_processes.py``: python distributed_worker.py RANK FOLDER"""

import json
import os
import signal
import sys
from pathlib import Path

import conftest
import torch.distributed as dist
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from mmkdml.engine import ChannelsLastHook

# As --fast. By a small eps, Adam makes steps of the noise in gradients that are almost zero.
FAST = dict(
    net=conftest.SteadyNet,
    by_epoch=False,
    epochs=6,
    adam=dict(eps=1.0, fused=True),
    hooks=[ChannelsLastHook()],
)
RUNS = {
    'epochs': {},
    'iterations': dict(by_epoch=False),
    'accumulated': dict(accumulate=4),
    'different seeds': dict(different=True),
    'workers': dict(workers=2, ema=True),
    'persistent workers': dict(workers=2, persistent=True),
    'fast': FAST,
    'fast, bfloat16': dict(FAST, epochs=3, amp=True, ema=True),
}
KILLED = 'workers'


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


def killed(folder, rank):
    """The exit code of a process that is killed in the third epoch, as the other one is."""
    if not (process := os.fork()):
        try:
            signal.alarm(200)
            join(folder / 'store', rank)
            stop = ('train', 5, signal.SIGKILL)
            conftest.start(folder, stop, parallel=True, **RUNS[KILLED])
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def outcome(rank, folder):
    statistics = Statistics()
    runners = {
        name: conftest.start(
            folder / name / 'undisturbed',
            parallel=True,
            **{**settings, **(dict(hooks=[statistics]) if name == 'epochs' else {})},
        )
        for name, settings in RUNS.items()
    }
    codes = [
        went_on(folder / name / 'resumed', rank, 3, **settings) for name, settings in RUNS.items()
    ]
    conftest.start(
        folder / 'killed',
        load_from=folder / 'killed' / 'epoch_2.pth',
        resume=True,
        parallel=True,
        **RUNS[KILLED],
    )
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


def join(store, rank):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=2)


if __name__ == '__main__':
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ['LOCAL_RANK'] = str(rank)
    (folder / 'killed').mkdir(exist_ok=True)
    code = killed(folder / 'killed', rank)  # before it has threads
    join(folder / 'store', rank)
    both = all_gather_object(dict(outcome(rank, folder), killed=code))
    if rank == 0:
        (folder / 'found.json').write_text(json.dumps(both))
    dist.barrier()
    dist.destroy_process_group()
