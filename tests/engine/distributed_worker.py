"""One process of ``test_distributed.py``: python distributed_worker.py RANK FOLDER."""

import json
import os
import signal
import sys
import traceback
from pathlib import Path

import conftest
import torch.distributed as dist
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook

from mmkdml.apis.cli.common import leave_process_group
from mmkdml.engine import ChannelsLastHook

# As with --fast. A large eps, because Adam amplifies the noise of gradients near zero.
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
THREE = dict(net=conftest.ConvolutionalNet, by_epoch=False, hooks=[ChannelsLastHook()])


class Statistics(Hook):
    """Records the running mean that each process uses in validations."""

    def __init__(self):
        self.seen = []

    def before_val_iter(self, runner, *_, **__):
        self.seen.append(runner.model.module.norm.running_mean.tolist())


def stop_and_resume(folder, rank, stopped_at, **settings):
    """Train until a signal to one process, then resume; return the exit code."""
    stop = ('train', stopped_at, signal.SIGTERM) if rank == 1 else None
    try:
        conftest.start(folder, stop, parallel=True, **settings)
    except SystemExit as leaving:
        code = leaving.code
    conftest.start(
        folder, load_from=folder / 'interrupted.pth', resume=True, parallel=True, **settings
    )
    return code


def forked(work, *args):
    """Start a process by forking, before this one has threads."""
    if not (process := os.fork()):
        try:
            signal.alarm(200)
            work(*args)
            os._exit(0)
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(1)
    return process


def killed(folder, rank):
    """Train until both processes are killed in the second epoch."""
    join(folder / 'store', rank)
    conftest.start(folder, ('train', 5, signal.SIGKILL), parallel=True, **RUNS[KILLED])


def of_three(folder, rank):
    """Train in three processes: uninterrupted, and stopped and resumed."""
    join(folder / 'store', rank, 3)
    conftest.start(folder / 'undisturbed', parallel=True, **THREE)
    stop_and_resume(folder / 'resumed', rank, 3, **THREE)


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
        stop_and_resume(folder / name / 'resumed', rank, 3, **settings)
        for name, settings in RUNS.items()
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
        unequal = str(error)
    network = runners['epochs'].model.module
    return dict(
        statistics=statistics.seen,
        seen=[batch.tolist() for batch in network.seen],
        codes=codes,
        unequal=unequal,
    )


def join(store, rank, processes=2):
    dist.init_process_group('gloo', init_method=f'file://{store}', rank=rank, world_size=processes)


if __name__ == '__main__':
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    os.environ['LOCAL_RANK'] = str(rank)
    processes = [forked(killed, folder / 'killed', rank)]
    processes += [forked(of_three, folder / 'three', third) for third in range(rank, 3, 2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes]
    join(folder / 'store', rank)
    both = all_gather_object(dict(outcome(rank, folder), forked=codes))
    if rank == 0:
        (folder / 'found.json').write_text(json.dumps(both))
    leave_process_group()
