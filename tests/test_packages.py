"""Files of installed packages, and inheritance of their configs."""

import importlib
import inspect
import re
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import mmengine.hub.hub
import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

import mmkdml
from mmkdml import packages
from mmkdml.apis import load_config
from mmkdml.experiments import load_suite
from mmkdml.packages import (
    around_import,
    defer_imports,
    packaged_file,
    packaged_name,
    when_imported,
)
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[1]
NAME = 'kdml/r50_r18x2_v3_lgg.py'


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Change to an empty directory, and return a function that writes a config there."""
    monkeypatch.chdir(tmp_path)

    def write(text, name='mine.py'):
        (tmp_path / name).write_text(text)
        return tmp_path / name

    return write


@pytest.fixture(autouse=True)
def no_pip(monkeypatch):
    """Fail if mmengine calls pip."""

    def call(command):
        raise AssertionError(command)

    monkeypatch.setattr(mmengine.utils.package_utils, 'call_command', call)


def test_packages_of_the_forks_are_found_by_module():
    """The forks' distributions are called onedl-..., so mmengine would install the originals."""
    assert {name: MODULE2PACKAGE[name] for name in ('mmkdml', 'mmseg', 'mmpretrain', 'mmdet')} == {
        name: name for name in ('mmkdml', 'mmseg', 'mmpretrain', 'mmdet')
    }


@pytest.mark.parametrize('order', ['mmkdml, mmengine.config', 'mmengine.config, mmkdml'])
def test_either_order_of_imports(order):
    script = f'import {order}; print(mmengine.config.utils.MODULE2PACKAGE["mmseg"])'
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert done.stdout == 'mmseg\n'


def test_function_is_called_once_after_import(tmp_path, monkeypatch):
    (tmp_path / 'some_module_of_a_test.py').write_text('value = 1')
    monkeypatch.syspath_prepend(tmp_path)
    seen = []
    when_imported('some_module_of_a_test', seen.append)
    assert seen == []
    import some_module_of_a_test as module

    assert seen == [module]
    assert module.value == 1
    when_imported('some_module_of_a_test', seen.append)
    assert seen == [module, module]
    del sys.modules['some_module_of_a_test']


def test_module_is_executed_once_in_the_context(tmp_path, monkeypatch):
    """Looking for the module does not use up the context, and reloading is not in it."""
    name, other = 'module_of_a_test', 'other_module_of_a_test'
    for one in (name, other):
        (tmp_path / f'{one}.py').write_text('import sys\nmarked = "mark" in sys.modules')
    monkeypatch.syspath_prepend(tmp_path)

    @contextmanager
    def mark(module):
        assert module.__name__ == name
        sys.modules['mark'] = None
        try:
            yield
        finally:
            del sys.modules['mark']

    around_import(name, mark)
    assert importlib.util.find_spec(name).name == name
    assert not importlib.import_module(other).marked
    module = importlib.import_module(name)
    assert module.marked
    around_import(name, mark)  # imported already
    assert not importlib.reload(module).marked
    for one in (name, other):
        del sys.modules[one]


@pytest.fixture
def deferred(tmp_path, monkeypatch):
    """Return a deferred package that counts its executions in a list of another module."""
    package = tmp_path / 'deferred_of_a_test'
    package.mkdir()
    text = 'import counts_of_a_test\ncounts_of_a_test.names.append(__name__)\n'
    (tmp_path / 'counts_of_a_test.py').write_text('names = []')
    (package / '__init__.py').write_text(f'{text}from deferred_of_a_test.part import value\n')
    (package / 'part.py').write_text(f'{text}value = 7\n')
    monkeypatch.syspath_prepend(tmp_path)
    finders = list(sys.meta_path)
    defer_imports('deferred_of_a_test')
    assert importlib.util.find_spec('deferred_of_a_test') is not None  # does not use it up
    counts, module = map(importlib.import_module, ('counts_of_a_test', 'deferred_of_a_test'))
    yield module, counts.names
    sys.meta_path[:] = finders
    for name in ('counts_of_a_test', 'deferred_of_a_test', 'deferred_of_a_test.part'):
        sys.modules.pop(name, None)


def test_deferred_module_is_executed_once_when_it_is_used(deferred):
    module, names = deferred
    assert module.__file__.endswith('__init__.py')
    assert module.__spec__.name == module.__name__ == 'deferred_of_a_test'
    assert inspect.getmodule(test_missing_module_stays_missing) is not None  # visits all modules
    assert names == []
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: module.value, range(4))) == [7] * 4
    assert names == ['deferred_of_a_test', 'deferred_of_a_test.part']
    assert type(module) is type(sys)
    with pytest.raises(AttributeError, match=r"'deferred_of_a_test' has no attribute 'nonsense'"):
        module.nonsense  # noqa: B018


def test_submodule_of_deferred_package_executes_the_package_first(deferred):
    _, names = deferred
    part = importlib.import_module('deferred_of_a_test.part')
    assert part.value == 7
    assert part.__spec__.origin == part.__file__
    assert names == ['deferred_of_a_test', 'deferred_of_a_test.part']


def test_thread_does_not_wait_for_the_end_of_an_execution_that_waits_for_it(deferred, monkeypatch):
    module, _ = deferred
    lock, waits = threading.RLock(), threading.Event()

    class Lock:
        def acquire(self, *args, **kwargs):
            waits.set()
            return lock.acquire(*args, **kwargs)

        release = lock.release
        __enter__ = acquire

        def __exit__(self, *error):
            self.release()

    monkeypatch.setattr(packages, '_DEFERRED_LOCK', Lock())
    found = []
    thread = threading.Thread(target=lambda: found.append(module.__path__), daemon=True)
    with lock:  # as held by a thread that executes the module
        thread.start()
        assert waits.wait(60)
        vars(module)['__path__'] = ['early']
        thread.join(10)
        assert found == [['early']]


def test_error_of_deferred_module_is_raised_by_each_use(deferred):
    module, _ = deferred
    Path(module.__file__).write_text('raise ValueError("broken")')
    for _ in range(2):
        with pytest.raises(ValueError, match='broken'):
            module.value  # noqa: B018


def test_missing_module_stays_missing():
    when_imported('no_such_module_of_a_test', print)
    with pytest.raises(ModuleNotFoundError, match='no_such_module_of_a_test'):
        import no_such_module_of_a_test  # noqa: F401


@pytest.mark.parametrize(
    'text',
    [
        f'_base_: mmkdml::{NAME}\nmodel: {{style: v1}}',
        f"_base_ = ['mmkdml::{NAME}']\nmodel = dict(style='v1')",
        f"_base_ = '{ROOT}/configs/{NAME}'\nmodel = dict(style='v1')",
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmkdml.configs.kdml.r50_r18x2_v3_lgg import *\n'
        "model.update(style='v1')",
    ],
)
def test_inherited_config_equals_that_of_the_repository(elsewhere, text):
    """A text config with ``_base_`` contains the names of the classes instead of the classes."""
    name = 'mine.yaml' if text.startswith('_base_:') else 'mine.py'
    config = load_config(elsewhere(text, name))
    expected = Config.fromfile(ROOT / 'configs' / NAME)
    expected.model.style = 'v1'
    expected.work_dir = config.work_dir
    assert config.to_dict() == expected.to_dict()


def test_examples_of_the_guide(elsewhere):
    guide = (ROOT / 'docs' / 'command_line.md').read_text()
    text, python = re.findall(r'```python\n(.*?)```', guide, re.DOTALL)
    config = load_config(elsewhere(text))
    assert config.train_dataloader.dataset.dataset.type == 'DRIVEDataset'
    assert config.optim_wrapper.optimizer.type == 'SGD'
    assert (config.model.mode, config.model.style) == ('kdml', 'v3')
    assert load_config(elsewhere(python, 'pure.py')).model.style == 'v1'
    for path in re.findall(r'mmkdml train (\w+::\S+\.py)', guide):
        assert load_config(path).model.type
    for path in re.findall(r'mmkdml suite run (\w+::\S+\.py)', guide):
        assert {Path(run.config).parent.name for run in load_suite(path).runs} >= {'kdml'}


def test_missing_base_raises_with_a_similar_name(elsewhere):
    path = elsewhere("_base_ = ['mmseg::_base_/datasets/driv.py']")
    with pytest.raises(ValueError, match=r'Did you mean mmseg::_base_/datasets/drive\.py'):
        load_config(path)


def test_text_config_builds_the_same_classroom(elsewhere):
    model = load_config(elsewhere("_base_ = 'mmkdml::demo/kdml_v3_demo.py'")).model
    built = MODELS.build(model)
    expected = MODELS.build(load_config(ROOT / 'configs/demo/kdml_v3_demo.py').model)
    assert {name: one.shape for name, one in built.state_dict().items()} == {
        name: one.shape for name, one in expected.state_dict().items()
    }
    assert built.transfers == expected.transfers


def test_hub_finds_configs_without_pip(elsewhere):
    config = mmengine.hub.get_config(f'mmkdml::{NAME}')
    assert config.model.mode == 'kdml'
    assert Path(config.filename).resolve() == ROOT / 'configs' / NAME
    assert mmengine.hub.get_config('mmseg::_base_/datasets/drive.py').data_root == 'data/DRIVE'


@pytest.mark.parametrize('package', ['mmdet', 'mmpretrain', 'mmseg'])
def test_missing_package_is_not_installed(elsewhere, monkeypatch, package):
    monkeypatch.setattr(sys, 'path', [])
    monkeypatch.setattr(sys, 'meta_path', sys.meta_path[-1:])
    sys.path_importer_cache.clear()
    monkeypatch.delitem(sys.modules, package, raising=False)
    command = 'mmkdml.detection.* --no-deps' if package == 'mmdet' else 'Install it'
    for call, error in [
        (mmengine.hub.get_config, ModuleNotFoundError),
        (mmengine.hub.get_model, ModuleNotFoundError),
        (Config.fromfile, FileNotFoundError),
        (load_config, FileNotFoundError),
    ]:
        path = f'{package}::a/b.py'
        with pytest.raises(error, match=f'{package}.*{command}'):
            call(path)
    with pytest.raises(FileNotFoundError, match=f'{package}.*{command}'):
        Config.fromfile(elsewhere(f"_base_ = '{package}::a/b.py'"))


def test_hub_installs_other_packages_as_before():
    with pytest.raises(AssertionError, match='mmocr'):
        mmengine.hub.get_config('mmocr::a/b.py')


def test_configs_of_mmdet(elsewhere):
    pytest.importorskip('mmdet')
    config = load_config(elsewhere("_base_ = 'mmdet::atss/atss_r50_fpn_1x_coco.py'"))
    assert config.model.type == 'ATSS'
    for load in (mmengine.hub.get_config, Config.fromfile, load_config):
        model = load('mmdet::atss/atss_r50_fpn_1x_coco.py').model
        assert {**model, '_scope_': 'mmdet'} == config.model


def test_mim_files_are_those_of_the_repository():
    mim = Path(mmkdml.__file__).parent / '.mim'
    for name in ('configs', 'tools', 'suites', 'model-index.yml'):
        assert (mim / name).resolve() == ROOT / name
    assert (mim.parent / 'configs').resolve() == ROOT / 'configs'


def test_packaged_file():
    assert packaged_file('a/b.py') == Path('a/b.py')
    assert packaged_file(f'mmkdml::{NAME}').resolve() == ROOT / 'configs' / NAME
    assert packaged_file('mmseg::_base_/default_runtime.py').is_file()
    assert packaged_file('mmkdml::table_4.py', 'suites').resolve() == ROOT / 'suites/table_4.py'


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('nonsense::a.py', "an installed package before ::, got 'nonsense'"),
        ('::a.py', "before ::, got ''"),
        ('mmkdml::kdml/r50_r18x2_v3_lg.py', f'Did you mean mmkdml::{NAME}'),
        ('mmkdml::kdml', 'mmkdml has no file kdml in '),
        ('json::a.py', 'json has no file a.py in'),
    ],
)
def test_missing_packaged_file_raises(path, message):
    with pytest.raises(FileNotFoundError, match=message):
        packaged_file(path)


def test_tools_accept_packaged_configs(elsewhere):
    config = load_config(f'mmkdml::{NAME}')
    assert config.work_dir == 'work_dirs/kdml/r50_r18x2_v3_lgg'


def test_packaged_name(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert packaged_name(f'configs/{NAME}') == f'configs/{NAME}'
    monkeypatch.chdir(tmp_path)
    assert packaged_name(f'configs/{NAME}') == f'mmkdml::{NAME}'
