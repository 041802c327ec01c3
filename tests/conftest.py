"""Fixtures and hooks of all tests."""

import copy
import ctypes
import functools
import gc
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import traceback
import uuid
import warnings
from collections import OrderedDict
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import torch.distributed
from matplotlib.figure import Figure
from mmengine import Config
from mmengine.dataset import base_dataset
from mmengine.hooks import runtime_info_hook
from mmengine.registry import DefaultScope
from mmengine.runner import runner
from mmengine.utils import ManagerMixin
from yapf.yapflib import yapf_api

from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.engine import keep_freed_memory

ROOT = Path(__file__).parents[1]

# Per run, mmengine formats its config as code, and per data set it collects garbage: about 0.1 and
# 0.3 s in the process of the tests. Processes started by tests do both.
yapf_api.FormatCode, FORMAT_CODE = lambda text, **_: (text, True), yapf_api.FormatCode
base_dataset.gc = SimpleNamespace(collect=lambda: 0)
# It starts git for each checkpoint, and gcc for each run.
runner.get_git_hash = runtime_info_hook.get_git_hash = functools.cache(runner.get_git_hash)
runner.collect_env = functools.cache(runner.collect_env)

# As runs on a CPU do: short steps spend much of their time on allocating memory.
keep_freed_memory()

T, S1, S2, P, F = 'teacher', 'student_1', 'student_2', 'predictions', 'features'
BOTH_PREDICTIONS = [(T, S1, P, 'beta'), (T, S2, P, 'beta')]
BOTH_FEATURES = [(T, S1, F, 'beta'), (T, S2, F, 'beta')]
MIXED = [(T, S1, P, 'beta'), (T, S2, F, 'beta')]
# Table 5 of the paper: (source, learner, knowledge, letter of the weight) by mode and style.
PAPER_TRANSFERS = {
    ('ml', 'v1'): [(S2, S1, P, 'gamma'), (S1, S2, P, 'gamma')],
    ('ml', 'v2'): [(S2, S1, F, 'gamma'), (S1, S2, F, 'gamma')],
    ('ml', 'v3'): [(S2, S1, P, 'gamma'), (S1, S2, F, 'gamma')],
    **{
        (mode, style): rows
        for mode in ('kd_off', 'kd_on')
        for style, rows in dict(v1=BOTH_PREDICTIONS, v2=BOTH_FEATURES, v3=MIXED).items()
    },
    ('kdml', 'v1'): [
        (T, S1, P, 'beta'), (S2, S1, P, 'gamma'), (T, S2, P, 'beta'), (S1, S2, P, 'gamma'),
    ],
    ('kdml', 'v2'): [
        (T, S1, F, 'beta'), (S2, S1, F, 'gamma'), (T, S2, F, 'beta'), (S1, S2, F, 'gamma'),
    ],
    ('kdml', 'v3'): [
        (T, S1, F, 'beta'), (S2, S1, P, 'gamma'), (T, S2, P, 'beta'), (S1, S2, F, 'gamma'),
    ],
}  # fmt: skip


@pytest.fixture(scope='session')
def paper_transfers():
    return PAPER_TRANSFERS


@pytest.fixture(scope='session')
def save_volumes():
    """Function that writes volumes in nnU-Net's layout, with arguments of dataset.json."""

    def save(folder, cases, channels=('T1',), labels=('background', 'tumor'), affine=None, **more):
        """Write ``cases``, a label (X, Y, Z) and images (C, X, Y, Z) by name."""
        affine = np.diag([1.0, 1.0, 3.0, 1.0]) if affine is None else affine
        for name in ('imagesTr', 'labelsTr'):
            (folder / name).mkdir(parents=True, exist_ok=True)
        for name, (label, images) in cases.items():
            files = {f'imagesTr/{name}_{c:04d}': image for c, image in enumerate(images)}
            for path, voxels in {**files, f'labelsTr/{name}': label}.items():
                image = nibabel.Nifti1Image(np.asarray(voxels), affine, dtype=voxels.dtype)
                nibabel.save(image, folder / f'{path}.nii.gz')
        content = dict(
            channel_names={str(c): name for c, name in enumerate(channels)},
            labels={name: value for value, name in enumerate(labels)},
            numTraining=len(cases),
            file_ending='.nii.gz',
        )
        (folder / 'dataset.json').write_text(json.dumps(content | more))
        return folder

    return save


@pytest.fixture(scope='session')
def draw_cases():
    """Function that draws cases of random intensities and labels, of several sizes."""

    def draw(number=6, channels=1, classes=2, dtype=np.int16, shape=(9, 8, 5)):
        random = np.random.default_rng(0)
        cases = {}
        for index in range(number):
            size = (shape[0] + index % 2, *shape[1:])
            label = random.integers(0, classes, size).astype(np.uint8)
            label[..., 0] = 0  # a slice without foreground
            images = random.integers(0, 900, (channels, *size)).astype(dtype)
            cases[f'case_{index}'] = label, images
        return cases

    return draw


@pytest.fixture
def formatted(monkeypatch):
    """Format configs as code, as outside of the tests."""
    monkeypatch.setattr(yapf_api, 'FormatCode', FORMAT_CODE)


def pytest_collection_modifyitems(items):
    """Start with the tests of the tools; a long test at the end would leave processes idle."""
    items.sort(key=lambda item: item.path.parent.name != 'tools')


def pytest_collection_finish():
    """Exclude existing objects from garbage collection, which mmengine runs for each data set."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Kill the processes of a test that hangs, so that it fails with a traceback.

    If it hangs without processes, ``faulthandler_timeout`` ends it some minutes later.
    """
    seconds = float(item.config.getini('faulthandler_timeout')) * 2 / 3
    timer = threading.Timer(seconds, kill_descendants, [os.getpid()])
    if seconds:
        timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def kill_descendants(parent):
    """Kill all descendants of a process."""
    found = subprocess.run(['pgrep', '-P', str(parent)], stdout=subprocess.PIPE, check=False)
    for child in map(int, found.stdout.split()):
        kill_descendants(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.fixture(autouse=True)
def process_state(monkeypatch):
    """Reset the state that a run sets for its process: default scope and mode of ``torch.load``."""
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '')  # restored after the test
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')


@pytest.fixture(autouse=True)
def default_sigint_handler():
    """Handle SIGINT as in a terminal, even if the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _run_until_tests_end(function, *args):
    if sys.platform == 'linux':  # even if the tests are killed
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    function(*args)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        os._exit(0)  # see mmkdml.apis.cli.common.leave_process_group


@contextmanager
def forking():
    """Yield a function that starts ``(function, *arguments)`` in new processes.

    It returns the processes, which end with the context.
    """
    processes = []

    def start(*calls):
        fork = multiprocessing.get_context('fork')
        started = [fork.Process(target=_run_until_tests_end, args=call) for call in calls]
        for process in started:
            process.start()
        processes.extend(started)
        return started

    yield start
    for process in processes:
        process.kill()
        process.join()


def wait(processes):
    """Wait until processes end, and check that they succeeded."""
    for process in processes:
        process.join(500)
    return [process.exitcode for process in processes] == [0] * len(processes)


@pytest.fixture
def forked():
    """Return a function that starts ``(function, *arguments)`` in new processes.

    It returns the processes, which end with the test.
    """
    with forking() as start:
        yield start


@pytest.fixture
def all_forked(forked):
    """Return a function that runs ``(function, *arguments)`` in new processes and waits."""

    def run(*calls):
        assert wait(forked(*calls))

    return run


def _managed(kind=ManagerMixin):
    return [kind, *chain.from_iterable(map(_managed, kind.__subclasses__()))]


def _reset_process():
    """Remove the state of earlier tests from a forked process."""
    sys.stdout, sys.stderr = (os.fdopen(one, 'w', 1, closefd=False) for one in (1, 2))
    warnings.resetwarnings()
    os.environ.pop('TORCH_FORCE_WEIGHTS_ONLY_LOAD', None)
    torch.set_num_threads(1)
    for kind in _managed():  # logs, message hubs and default scope
        kind._instance_dict.clear()


def run_script(output, path, *args):
    """Run a script as ``python PATH ARGS`` does, in a forked process, which has its imports.

    Starting Python and importing the frameworks again would take 6 s.
    """
    os.setsid()
    with open(output, 'w') as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    _reset_process()
    os.chdir(ROOT)
    folder = Path(path).parent
    for module in [*sys.modules.values()]:
        if getattr(module, '__file__', None) == str(folder / 'conftest.py'):
            sys.modules['conftest'] = module
    sys.path.insert(0, str(folder))
    sys.argv = [str(path), *map(str, args)]
    runpy.run_path(str(path), run_name='__main__')


class ForkedPython(subprocess.Popen):
    """Run ``python FILE`` or ``python -m MODULE`` in a fork, which has the imports of the tests."""

    def __init__(self, args, env=None, **options):
        super().__init__(args, preexec_fn=lambda: _become_python(args[1:], env), **options)


def _become_python(args, env):
    """Use the new process, whose standard streams are set up, instead of starting a program."""
    os.closerange(3, os.sysconf('SC_OPEN_MAX'))  # one of them makes the parent wait
    code = 1
    try:
        gc.enable()
        os.environ.update(env or {})
        _reset_process()
        name, sys.argv = (args[1], args[1:]) if args[0] == '-m' else (args[0], [*args])
        run = runpy.run_module if args[0] == '-m' else runpy.run_path
        run(name, run_name='__main__')
        code = 0
    except SystemExit as stopped:
        code = stopped.code if isinstance(stopped.code, int) else stopped.code is not None
        if isinstance(stopped.code, str):
            print(stopped.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


@pytest.fixture(scope='session')
def forked_python():
    """Class of processes that take the place of ``subprocess.Popen`` for Python."""
    return ForkedPython


@pytest.fixture
def forked_script(forked):
    """Return a function that starts a Python script; see ``run_script``."""
    return lambda *call: forked((run_script, *call))[0]


@pytest.fixture(scope='session')
def run_scripts(tmp_path_factory):
    """Return a function that runs ``(path, *arguments)`` of Python scripts at the same time.

    It returns what they print.
    """

    def run(*calls):
        folder = tmp_path_factory.mktemp('scripts')
        outputs = [folder / str(number) for number in range(len(calls))]
        with forking() as start:
            scripts = zip(outputs, calls, strict=True)
            succeeded = wait(start(*((run_script, output, *call) for output, call in scripts)))
        texts = [output.read_text() for output in outputs]
        assert succeeded, '\n'.join(texts)
        return texts

    return run


@pytest.fixture
def figure(monkeypatch):
    """Figures that the test saves."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure,
        'savefig',
        lambda self, path, **kwargs: (figures.append(self), save(self, path, **kwargs)),
    )
    return figures


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def payload():
    """Class of objects that create the file ``path`` when they are unpickled."""
    return Payload


@pytest.fixture
def tool(monkeypatch):
    """Return a function that runs a tool, or ``benchmark``, in this process."""

    def run(name, *args, options=(), experiment=True):
        path = str(ROOT / ('benchmarks/__main__.py' if name == 'benchmark' else f'tools/{name}.py'))
        # Two runs in the same process and second would share log and message hub.
        unique = uuid.uuid4().hex
        options = [
            *options,
            *([f'experiment_name={unique}', f'visualizer.name={unique}'] if experiment else []),
        ]
        args = [*map(str, args), *(['--cfg-options', *options] if options else [])]
        monkeypatch.setattr(sys, 'argv', [path, *args])
        runpy.run_path(path, run_name='__main__')

    return run


@pytest.fixture(scope='session')
def slices(tmp_path_factory):
    """Folder of synthetic images, and a split file of 16 of them."""
    root = tmp_path_factory.mktemp('slices')
    source = make_demo_data(root / 'kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, root / 'splits')
    return source, root / 'splits' / 'train.csv'


PUBLISHED_DETECTORS = dict(
    atss='atss/atss_r50_fpn_1x_coco.py',
    retinanet='retinanet/retinanet_r50_fpn_1x_coco.py',
    fcos='fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    fcos_norm='fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py',
    gfl='gfl/gfl_r50_fpn_1x_coco.py',
    rtmdet='rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    yolox='yolox/yolox_s_8xb8-300e_coco.py',
    free_anchor='free_anchor/freeanchor_r50_fpn_1x_coco.py',
    fovea='foveabox/fovea_r50_fpn_4xb4-1x_coco.py',
)


@pytest.fixture(scope='session')
def detector():
    """Return a function that builds a detector of mmdet, small, from its published config."""
    pytest.importorskip('mmdet')
    import mmkdml.compat  # noqa: F401  # prepares the frameworks
    from mmkdml.packages import packaged_file
    from mmkdml.registry import MODELS

    @functools.cache
    def published(name):
        return Config.fromfile(packaged_file(f'mmdet::{PUBLISHED_DETECTORS[name]}')).model

    def config_of(name='atss', num_classes=3, width=8, **backbone):
        config = copy.deepcopy(published(name))
        levels = len(config.neck.in_channels)
        config.backbone = dict(
            type='ResNet',
            depth=18,
            base_channels=width,
            stem_channels=width,
            out_indices=tuple(range(4 - levels, 4)),
            **backbone,
        )
        config.neck.update(in_channels=[width << i for i in range(4 - levels, 4)], out_channels=32)
        if 'num_csp_blocks' in config.neck:
            config.neck.num_csp_blocks = 1
        config.bbox_head.update(num_classes=num_classes, in_channels=32, feat_channels=32)
        config.bbox_head.stacked_convs = 1
        if config.bbox_head.type in ('ATSSHead', 'FCOSHead', 'GFLHead'):
            config.bbox_head.norm_cfg = dict(type='GN', num_groups=8)
        return dict(config, _scope_='mmdet')

    def build(name='atss', num_classes=3, seed=0, **backbone):
        torch.manual_seed(seed)
        return MODELS.build(config_of(name, num_classes, **backbone))

    build.config = config_of
    return build
