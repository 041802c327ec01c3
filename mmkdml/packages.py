"""Files of installed packages, such as the config ``mmkdml::kdml/r50_r18x2_v3_lgg.py``."""

from __future__ import annotations

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from difflib import get_close_matches
from importlib.abc import Loader
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from mmkdml.optional import install_command

# mmengine's table names the distributions of the original projects. Those of the forks have other
# names, and mmengine.hub would install the original next to them. A module is found in any case.
MODULES = ('mmkdml', 'mmdet', 'mmpretrain', 'mmseg')

_DEFERRED_LOCK = threading.RLock()
_executing: set[str] = set()  # names of deferred modules

Context = Callable[[Any], AbstractContextManager[None]]


def packaged_file(path: str | Path, folder: str = 'configs') -> Path:
    """Find a file that a package contains.

    Args:
        path: ``<package>::<path in the folder>``; any other path is returned as it is.
        folder: Folder in ``.mim`` of the package.

    Raises:
        FileNotFoundError: If the package is not installed, or does not contain the file.
    """
    package, scoped, name = str(path).partition('::')
    if not scoped:
        return Path(path)
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f'Invalid path {path}: expected the name of an installed package before ::, got '
            f'{package!r}. {_how_to_install(package)}'
        )
    root = Path(spec.origin).parent / '.mim' / folder
    if not (root / name).is_file():
        files = [file.relative_to(root).as_posix() for file in root.glob('**/*.*')]
        near = get_close_matches(name, files, n=1)
        raise FileNotFoundError(
            f'Invalid path {path}: {package} has no file {name} in {root}.'
            + (f' Did you mean {package}::{near[0]}?' if near else '')
        )
    return root / name


def _how_to_install(package: str) -> str:
    if package == 'mmdet':
        return f'Run: {install_command("detection")}'
    return 'Install it, or correct the name'


def packaged_name(path: str) -> str:
    """Return the path of a config of mmkdml as users pass it to a tool.

    Args:
        path: Path in the repository, such as ``configs/kdml/r50_r18x2_v3_lgg.py``.

    Returns:
        The path if the file exists; otherwise that in the package, ``mmkdml::kdml/...``.
    """
    return path if Path(path).is_file() else f'mmkdml::{path.removeprefix("configs/")}'


class _AroundImport:
    """Finder in ``sys.meta_path`` that executes a module in a context."""

    def __init__(self, name: str, context: Context) -> None:
        self.name, self.context = name, context
        self.searching = False

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find the module with the other finders, and extend its loader."""
        if name != self.name or self.searching:
            return None
        self.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.searching = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            # A loader may load other modules too, and this one again.
            if module.__name__ != self.name or self not in sys.meta_path:
                execute(module)
                return
            sys.meta_path.remove(self)
            with self.context(module):
                execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def around_import(name: str, context: Context) -> None:
    """Execute a module in a context when it is imported; do nothing if it has been imported.

    Args:
        name: Full name of the module.
        context: Called once with the module; returns the context manager.
    """
    if name not in sys.modules:
        sys.meta_path.insert(0, _AroundImport(name, context))


class _DeferredModule(ModuleType):
    """Module that is executed when an attribute is missing.

    Unlike ``importlib.util.LazyLoader``, looking for ``__file__``, as ``inspect`` does for all
    modules, does not execute it.
    """

    def __getattr__(self, name: str) -> Any:
        # The thread that executes it may wait for a submodule that this thread is importing.
        while not _DEFERRED_LOCK.acquire(timeout=0.1):
            if name in vars(self):
                return vars(self)[name]
        try:
            spec = vars(self)['__spec__']
            if type(self) is _DeferredModule and spec.name not in _executing:
                _executing.add(spec.name)
                if spec.submodule_search_locations is not None:
                    self.__path__ = spec.submodule_search_locations
                try:
                    spec.loader.exec_module(self)
                finally:
                    _executing.remove(spec.name)
                self.__class__ = ModuleType  # type: ignore[assignment]
                return getattr(self, name)
        finally:
            _DEFERRED_LOCK.release()
        if name in vars(self):  # by another thread
            return vars(self)[name]
        raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')


class _DeferringLoader(Loader):
    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        vars(module).pop('__path__', None)  # importing a submodule executes the package
        module.__class__ = _DeferredModule


class _LoadedLoader(Loader):
    """Loader of a submodule that its deferred package has just imported."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.spec


class _DeferringFinder:
    """Finder in ``sys.meta_path`` of modules that are executed when they are first used."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = set(names)

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Find a module with the other finders, and make its loader lazy."""
        if name not in self.names:
            loaded = sys.modules.get(name) if target is None else None
            if loaded is None or name.rpartition('.')[0] not in self.names:
                return None
            return ModuleSpec(name, _LoadedLoader(loaded))
        self.names.remove(name)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.names.add(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _DeferringLoader(spec.loader)
        return spec


def defer_imports(*names: str) -> None:
    """Execute modules when an attribute of them is first used instead of when they are imported.

    Args:
        *names: Full names of modules; those that have been imported stay as they are.
    """
    sys.meta_path.insert(0, _DeferringFinder({*names} - sys.modules.keys()))


def when_imported(name: str, function: Callable[[Any], None]) -> None:
    """Call a function with a module: now, if it has been imported, or when it is.

    Importing mmkdml stays fast, because it does not import the module.

    Args:
        name: Full name of the module.
        function: Called once with the module.
    """

    @contextmanager
    def then(module: Any) -> Iterator[None]:
        yield
        function(module)

    if name in sys.modules:
        function(sys.modules[name])
    else:
        around_import(name, then)


def register_modules(utils: Any) -> None:
    """Extend the table of packages whose configs mmengine finds.

    Args:
        utils: The module ``mmengine.config.utils``.
    """
    utils.MODULE2PACKAGE.update(dict(zip(MODULES, MODULES, strict=True)))


def refuse_to_install(hub: Any) -> None:
    """Raise an error where mmengine would install a missing framework with pip.

    Args:
        hub: The module ``mmengine.hub.hub``.
    """
    install = hub.install_package

    def check(package: str) -> None:
        if package not in MODULES:
            install(package)
        elif importlib.util.find_spec(package) is None:
            raise ModuleNotFoundError(
                f'Missing package: {package} is not installed. {_how_to_install(package)}'
            )

    hub.install_package = check


def inherit_python_configs(module: Any) -> None:
    """Let text configs inherit pure-Python configs, which mmengine refuses; find those of packages.

    The classes of the inherited config become their full names, as in the config that a run saves.
    It gets no ``_scope_``, which these names do not need, and which would also apply to all that is
    built within, such as the data set of a training loop.

    Args:
        module: The module ``mmengine.config.config``.
    """
    config = module.Config
    from_file = config.fromfile
    file_to_dict, path_and_scope = config._file2dict, config._get_cfg_path

    def load(filename: str | Path, *args: Any, **kwargs: Any) -> Any:
        path = packaged_file(filename) if '::' in str(filename) else filename
        return from_file(path, *args, **kwargs)

    def read(filename: str, *args: Any, **kwargs: Any) -> tuple[dict, str, dict]:
        lazy_import = kwargs.get('lazy_import', args[2] if len(args) > 2 else None)
        if lazy_import is not None or not config._is_lazy_import(filename):
            return file_to_dict(filename, *args, **kwargs)
        base = config.fromfile(filename)
        return module.ConfigDict(base.to_dict()), f'{filename}\n{base.text}', {}

    def find(name: str, filename: str) -> tuple[str, str | None]:
        if '::' in name:  # mmengine would read all metafiles of the package first
            path, scope = str(packaged_file(name)), name.partition('::')[0]
        else:
            path, scope = path_and_scope(name, filename)
        return path, None if config._is_lazy_import(path) else scope

    config.fromfile = staticmethod(load)
    config._file2dict, config._get_cfg_path = staticmethod(read), staticmethod(find)
