"""A worker of a suite of dummy runs: python suite_worker.py URL FOLDER OPTIONS."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

HOLD = 'hold'  # while this file is in the folder of the suite, runs do not end


def execute(path):
    """Behave as a run: end when the file is gone, and save on SIGTERM."""
    spec = json.loads(Path(path).read_text())
    folder = Path(spec['work_dir'])
    signal.signal(signal.SIGTERM, lambda *_: ((folder / 'interrupted.pth').touch(), os._exit(143)))
    threading.Thread(target=lambda: (sys.stdin.buffer.raw.read(), os._exit(1)), daemon=True).start()
    with (folder / 'executed').open('a') as executed:
        executed.write(f'{os.getpid()}\n')
    while (folder.parents[1] / HOLD).exists():
        time.sleep(0.05)
    if spec['options']['fail']:
        raise RuntimeError('no GPU')
    (folder / 'result.json.gz').write_bytes((folder.parents[1] / 'result.json.gz').read_bytes())


def work(url, folder, runs='ab', name='suite', fail=False, retry_seconds=600, resume=False):
    import pandas as pd

    from mmkdml.experiments import RunSpec, Suite, SuiteStore
    from mmkdml.experiments.suites.execution import worker
    from mmkdml.experiments.suites.execution.run import run_workers
    from mmkdml.experiments.suites.serialization import serialize_result
    from mmkdml.statistics.records import Measurement

    folder = Path(folder)
    worker.COMMAND, worker.HEARTBEAT_SECONDS = (__file__,), 1.0
    cases = pd.DataFrame(
        [('model', '1', 'a', 1, 8, 1, 0)],
        columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
    )
    curves = pd.DataFrame([(1, 'loss', 0.5)], columns=['epoch', 'key', 'value'])
    measured = {one: Measurement({'model/IoU': 80.0}, cases) for one in ('best', 'last')}
    if not (folder / 'result.json.gz').exists():
        metadata = dict(seconds=1.0, padding=os.urandom(1 << 20).hex())
        result = serialize_result(measured, curves, metadata)
        (folder / 'result.json.gz').write_bytes(result)
    specs = tuple(RunSpec(one, 0, 'config.py', dict(fail=fail)) for one in runs)
    suite = Suite(name, f'{name}.py', 'Title', ('IoU',), (), specs, folder)
    print('started', flush=True)
    store = SuiteStore(url, retry_seconds=retry_seconds, log=lambda line: print(line, flush=True))
    store.register(specs, dict.fromkeys(runs, '{"model": {}}'), name)
    if resume:
        store.retry_failed(specs)
    run_workers(suite, store, log=lambda line: print(line, flush=True))


if __name__ == '__main__':
    if len(sys.argv) == 2:
        execute(sys.argv[1])
    else:
        try:
            work(*sys.argv[1:3], **json.loads(sys.argv[3]))
        except KeyboardInterrupt:
            sys.exit('interrupted')
        except ValueError as error:
            sys.exit(f'error: {error}')
