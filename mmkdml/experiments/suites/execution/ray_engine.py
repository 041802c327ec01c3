"""Execution of a suite on Ray: each run is a task, which starts after the tasks of its teachers."""

from __future__ import annotations

import os
import signal
import socket
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmkdml.experiments.database import RETRY_SECONDS
from mmkdml.experiments.suites.execution.display import SuiteDisplay
from mmkdml.experiments.suites.execution.run import register_suite, run_workers
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.optional import require

#: Maximum number of restarts of a task whose node is lost.
MAX_RETRIES = 10
_STOP_SECONDS = 60.0
_POLL_SECONDS = 1.0
_CONNECT_SECONDS = 10.0


def run_on_ray(
    suite: Suite,
    store: SuiteStore,
    address: str | None = None,
    processes: int = 1,
    cpus: float | None = None,
    gpus: float | None = None,
    retry: bool = False,
    wait_for_nodes: bool = False,
) -> None:
    """Execute the waiting runs of a suite as tasks of Ray.

    All nodes need the same packages, the working directory and the folder of the suite under the
    same paths, and access to the database. If a node is lost, Ray starts its runs on others, where
    they resume from their newest checkpoints after
    :data:`~mmkdml.experiments.suites.execution.run_queue.GRACE_SECONDS`.

    Args:
        suite: The suite.
        store: Its database, which records states and results as with other workers.
        address: Address of a Ray cluster, ``'auto'`` for the one of this machine. Default: as in
            ``ray.init``, i.e., ``RAY_ADDRESS``, a cluster of this machine, or a new local one. Not
            used if Ray is initialized.
        processes: Number of processes of each run, on one node.
        cpus: CPU cores of each run. Default: one per process.
        gpus: GPUs of each run; a fraction lets runs share one. Default: one per process if the
            cluster has GPUs.
        retry: Also execute failed runs of this suite again.
        wait_for_nodes: If no node has the cores and GPUs of a run, log that and wait for one, such
            as from an autoscaler. Default: raise.

    Raises:
        KeyboardInterrupt: If SIGINT (Ctrl-C) or SIGTERM stopped the runs. They can be resumed.
        FileNotFoundError: If data of a waiting run do not exist.
        ValueError: If Ray is not installed, no node has the cores and GPUs of a run, a node cannot
            access the database, or as :func:`~mmkdml.experiments.suites.execution.run.run_suite`.
        ConnectionError: If there is no cluster at the address.
    """
    _use_token()  # Ray reads it while it is imported
    ray = require('ray', extra='ray', purpose='--engine ray')
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')
    # A run without GPUs must not see those of others.
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '1')
    register_suite(suite, store, retry)
    unfinished = set(store.unfinished())
    if not unfinished:
        return
    is_own = not ray.is_initialized()
    if is_own:
        _check_address(address or os.environ.get('RAY_ADDRESS', ''))
        with warnings.catch_warnings():
            # Announces that Ray will stop hiding GPUs by default, which is set above.
            warnings.filterwarnings('ignore', 'Tip: In future versions of Ray', FutureWarning)
            ray.init(address=address)
    cpus = processes if cpus is None else cpus
    if gpus is None:
        gpus = processes if ray.cluster_resources().get('GPU') else 0
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=MAX_RETRIES)(_execute)
    url = store.engine.url.render_as_string(hide_password=False)
    suite = replace(suite, work_dir=suite.work_dir.resolve())
    tasks: dict[tuple[str, int], Any] = {}
    left: list[Any] = []
    display = SuiteDisplay(suite, store)
    handler = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if problem := _lacking_resources(ray.nodes(), dict(CPU=cpus, GPU=gpus)):
            if not wait_for_nodes:
                raise ValueError(
                    f'{problem}. Reduce --cpus, --gpus or --processes, start such a machine, or '
                    'wait for one with --wait-for-nodes, e.g. from an autoscaler'
                )
            display.note(f'{problem}. Waiting for such a machine')
        for run in suite.runs:  # teachers come first
            if (run.name, run.seed) in unfinished:
                needed = [tasks[one, run.seed] for one in run.teachers if (one, run.seed) in tasks]
                tasks[run.name, run.seed] = task.options(name=run.key).remote(
                    replace(suite, runs=(run,)), url, processes, Path.cwd(), *needed
                )
                left.append(tasks[run.name, run.seed])
        with display:
            while left:
                done, left = ray.wait(left, timeout=_POLL_SECONDS)
                ray.get(done)  # raises the errors of tasks
                display.started()
    except BaseException as error:
        for one in left:
            ray.cancel(one)
        if left:
            ray.wait(left, num_returns=len(left), timeout=_STOP_SECONDS)
        if isinstance(cause := getattr(error, 'cause', None), ValueError):  # of a task
            raise ValueError(str(cause)) from error
        if isinstance(error, ray.exceptions.RayError) and cause is None:
            raise ValueError(f'Ray could not execute a run: {error}. Fix it and resume') from error
        raise
    finally:
        signal.signal(signal.SIGTERM, handler)
        if is_own:
            ray.shutdown()


def _lacking_resources(
    nodes: Sequence[Mapping[str, Any]], needed: Mapping[str, float]
) -> str | None:
    """Return an error if no node could ever execute a run.

    Args:
        nodes: Result of ``ray.nodes()``.
        needed: Resources of a run by Ray's name.
    """
    found = [node['Resources'] for node in nodes if node['Alive']]
    if any(all(one.get(name, 0) >= number for name, number in needed.items()) for one in found):
        return None
    sizes = dict.fromkeys(_resources_text({**dict.fromkeys(needed, 0), **one}) for one in found)
    return (
        f'Invalid resources of a run: expected those of one machine of the Ray cluster '
        f'({"; ".join(sizes)}), got {_resources_text(needed)}'
    )


def _resources_text(resources: Mapping[str, float]) -> str:
    return f'{resources["CPU"]:g} cores and {resources["GPU"]:g} GPUs'


def _use_token() -> None:
    """Authenticate with the token of this machine, if there is one.

    `ray start` requires a token as soon as there is one, but `ray.init` with an address sends it
    only in this mode. Clusters without tokens ignore it.
    """
    file = Path.home() / '.ray' / 'auth_token'
    if os.environ.keys() & {'RAY_AUTH_TOKEN', 'RAY_AUTH_TOKEN_PATH'} or file.is_file():
        os.environ.setdefault('RAY_AUTH_MODE', 'token')


def _check_address(address: str) -> None:
    """Check that a cluster can be reached, because Ray itself tries for minutes."""
    host, _, port = address.rpartition('://')[2].rpartition(':')
    if port.isdecimal():
        try:
            socket.create_connection((host.strip('[]'), int(port)), _CONNECT_SECONDS).close()
        except OSError as error:
            raise ConnectionError(
                f'Cannot reach the Ray cluster {address}: {error}. Check --address or RAY_ADDRESS, '
                'and that its head node is running'
            ) from error


def _execute(suite: Suite, url: str, processes: int, folder: Path, *teachers: None) -> None:
    """Execute a suite of one run on a node; ``teachers`` are the tasks that come before."""
    os.chdir(folder)
    store = SuiteStore(url, retry_seconds=RETRY_SECONDS)
    # Ray has assigned cores and GPUs. Each task is its own worker, so failures are not counted.
    run_workers(suite, store, processes=processes, log=print, max_failures=0)
