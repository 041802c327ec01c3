"""Suite files: which configs are run, with which seeds and changes, and what depends on what."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import yaml  # type: ignore[import-untyped]

from mmkdml.safe_yaml import SafeYamlLoader
from mmkdml.statistics.measures import MEASURES

_KEYS = {
    'title', 'measures', 'seeds', 'runs', 'variants', 'options', 'amp', 'paper_tables', 'work_dir'
}  # fmt: skip
_RUN_KEYS = {'name', 'config', 'teacher', 'options'}
# Inheritance and predefined variables of mmengine's config files.
_MMENGINE_SYNTAX = ('_base_', 'read_base', '{{')
_DATA = ('.yaml', '.yml', '.json')
# Becomes a folder's name.
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')


@dataclass(frozen=True)
class RunSpec:
    """One run of a suite: a config with a seed and the suite's changes to it.

    Attributes:
        name: Name shared by all seeds, behind its variant's if there are any (``hot/kdml_v3``).
        seed: The seed.
        config: The config file, relative to the working directory.
        options: Settings to change, by dotted key.
        teacher: Name of the run whose best checkpoint of the same seed is the frozen teacher.
        amp: Train in mixed precision.
    """

    name: str
    seed: int
    config: str
    options: Mapping[str, Any] = field(default_factory=dict)
    teacher: str | None = None
    amp: bool = False

    @property
    def key(self) -> str:
        """Name of the run and folder of its files, ``kdml_v3/seed_0``."""
        return run_key(self.name, self.seed)


@dataclass(frozen=True)
class Suite:
    """A suite of runs.

    Attributes:
        name: Stem of the suite's file.
        path: The suite's file, as given.
        title: One line that says what it is.
        measures: What its tables show, names of :data:`~.measures.MEASURES`.
        paper_tables: The paper's tables with the same cells.
        runs: The runs, teachers before those they teach, all first seeds before all second ones.
        work_dir: Folder of its files.
    """

    name: str
    path: str
    title: str
    measures: tuple[str, ...]
    paper_tables: tuple[str, ...]
    runs: tuple[RunSpec, ...]
    work_dir: Path


def run_key(name: str, seed: int) -> str:
    """``<name>/seed_<seed>``."""
    return f'{name}/seed_{seed}'


def load_suite(path: str | Path, work_dir: str | Path | None = None) -> Suite:
    """Reads a suite file.

    A suite file is a Python, YAML or JSON file that mmengine can read (``_base_`` names files to
    inherit, for YAML and JSON such as are data, too) with

    - ``title``, ``measures`` and, where the paper has the same table, ``paper_tables``;
    - ``seeds``: integers;
    - ``runs``: a list of ``dict(config=..., name=..., teacher=..., options=...)``. ``name`` is the
      config's by default; ``teacher`` names the run whose best checkpoint is the frozen teacher;
    - ``options``: settings that every run changes, by dotted key;
    - ``variants``: options by name; every run is made with each of them;
    - ``amp``: train in mixed precision;
    - work_dir: ``work_dirs/suites/<name>`` by default.

    Names that begin with an underscore are for the file alone. A run's own options go before its
    variant's, and those before the suite's.

    Args:
        path: The suite file.
        work_dir: Another folder than the file says.

    Raises:
        FileNotFoundError: If the suite file or a config does not exist.
        ValueError: If the file cannot be read, has an unknown or a missing key, a value of a kind
            that cannot be, no runs or seeds, a name twice, a teacher that is no run, or teachers
            that teach each other in a circle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f'There is no suite file {path}')
    content = {key: value for key, value in _read(path).items() if str(key)[:1] != '_'}
    _check_keys(str(path), content, _KEYS, ('runs', 'seeds', 'measures'))
    measures = _names(path, 'measures', content['measures'])
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise ValueError(f'{path}: measures must be among {", ".join(MEASURES)}; got {unknown}')
    default = Path('work_dirs') / 'suites' / path.stem
    return Suite(
        name=path.stem,
        path=str(path),
        title=str(content.get('title', path.stem)),
        measures=measures,
        paper_tables=_names(path, 'paper_tables', content.get('paper_tables', ())),
        runs=tuple(_expanded(path, content)),
        work_dir=Path(work_dir or _text(f'{path}: work_dir', content.get('work_dir')) or default),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding='utf-8')
        if any(word in text for word in _MMENGINE_SYNTAX):
            return _read_with_mmengine(path)
        if path.suffix == '.py':
            values: dict[str, Any] = {}
            exec(compile(text, str(path), 'exec'), values)
            kinds = FunctionType | ModuleType
            return {key: value for key, value in values.items() if not isinstance(value, kinds)}
        return _as_dict(text, path.suffix)
    except Exception as error:  # Python, YAML and JSON each raise their own
        raise ValueError(
            f'{path} cannot be read as a suite file: {type(error).__name__}: {error}'
        ) from error


def _as_dict(text: str, suffix: str) -> dict[str, Any]:
    content = json.loads(text) if suffix == '.json' else yaml.load(text, SafeYamlLoader)
    if not isinstance(content, dict):
        raise TypeError(f'expected a dict, got {type(content).__name__}')
    return content


def _read_with_mmengine(path: Path) -> dict[str, Any]:
    """Read a file that inherits others; mmengine is not imported for those that do not."""
    from mmengine.config import Config

    import mmkdml.compat  # noqa: F401  # makes mmengine read YAML safely

    if path.suffix in _DATA:
        _refuse_inherited_code(path)
    # Not as a pure-Python config: here a list may be computed.
    return Config.fromfile(path, lazy_import=False, import_custom_modules=False).to_dict()


def _refuse_inherited_code(path: Path) -> None:
    """Allow data files to inherit data files only, because Python files would be executed."""
    bases = _as_dict(path.read_text(encoding='utf-8'), path.suffix).get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not base.endswith(_DATA) or '{{' in base or '::' in base:
            raise ValueError(
                f'{path} may inherit {", ".join(_DATA)} files by their paths, got {base!r}'
            )
        _refuse_inherited_code(path.parent / base)


def _expanded(path: Path, content: Mapping[str, Any]) -> list[RunSpec]:
    seeds = content['seeds']
    if not _is_list(seeds) or not seeds or not all(map(_is_seed, seeds)):
        raise ValueError(
            f'{path}: seeds must be a list of integers, got {seeds!r}; each from 0 to 2^32 - 1'
        )
    if len(set(seeds)) < len(seeds):
        raise ValueError(f'{path}: a seed comes twice in {list(seeds)}')
    entries = content['runs']
    if not _is_list(entries) or not entries:
        raise ValueError(f'{path}: runs must be a list of dicts, got {entries!r}')
    variants = _named(f'{path}: variants', content.get('variants')) or {'': {}}
    common = _named(f'{path}: options', content.get('options'))
    by_name: dict[str, dict[str, Any]] = {}
    for variant, given in variants.items():
        changes = _named(f'{path}: the variant {variant!r}', given)
        prefix = f'{_checked_name(path, variant)}/' if variant else ''
        for entry in entries:
            _check_keys(f'{path}: run {entry!r}', entry, _RUN_KEYS, ('config',))
            config = _text(f'{path}: config of {entry!r}', entry['config'])
            name = prefix + _checked_name(path, entry.get('name', Path(config).stem))
            if name in by_name:
                raise ValueError(
                    f'{path}: the name {name!r} comes twice, for {by_name[name]["config"]} and '
                    f'{config}; give one of them another name'
                )
            if not Path(config).is_file():
                raise FileNotFoundError(
                    f'{path}: run {name!r} names the config {config}, which does not '
                    'exist (it is taken relative to the working directory)'
                )
            teacher = _text(f'{path}: teacher of {name!r}', entry.get('teacher'))
            own = _named(f'{path}: options of {name!r}', entry.get('options'))
            by_name[name] = dict(
                config=config,
                teacher=prefix + teacher if teacher else None,
                amp=bool(content.get('amp', False)),
                options={**common, **changes, **own},
            )
    order = _teachers_first(path, by_name)
    return [RunSpec(name, seed, **by_name[name]) for seed in seeds for name in order]


def _teachers_first(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    for name, run in runs.items():
        if run['teacher'] is not None and run['teacher'] not in runs:
            raise ValueError(
                f'{path}: the teacher of {name!r} is {run["teacher"]!r}, which is no run of the '
                f'suite; its runs are {", ".join(runs)}'
            )
    graph = {name: [run['teacher']] if run['teacher'] else [] for name, run in runs.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise ValueError(
            f'{path}: runs wait for each other in a circle: {" -> ".join(error.args[1])}'
        ) from error
    teachers = {run['teacher'] for run in runs.values()}
    # As written, but for teachers: they go first, so that no worker has to wait for one.
    return [name for name in order if name in teachers] + [n for n in runs if n not in teachers]


def _check_keys(where: str, content: Any, allowed: set[str], required: Sequence[str]) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f'{where}: expected a dict, got {type(content).__name__}')
    unknown = sorted(map(str, set(content) - allowed))
    missing = [key for key in required if key not in content]
    if unknown or missing:
        raise ValueError(
            f'{where}: '
            + '; '.join(
                ([f'missing: {", ".join(missing)}'] if missing else [])
                + ([f'unknown: {", ".join(unknown)}'] if unknown else [])
            )
            + f'. The keys are {", ".join(sorted(allowed))}'
        )


def _checked_name(path: Path, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(
            f'{path}: a name may have letters, digits, "_", "-" and ".", got {name!r}; it becomes '
            'the name of a folder'
        )
    return name


def _names(path: Path, key: str, names: Any) -> tuple[str, ...]:
    if not _is_list(names) or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{path}: {key} must be a list of names, got {names!r}')
    return tuple(names)


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str | None):
        raise ValueError(f'{where} must be a text, got {value!r}')
    return value or ''


def _named(where: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping | None) or not all(isinstance(k, str) for k in values or ()):
        raise ValueError(f'{where} must be a dict with names as keys, got {values!r}')
    return values or {}


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32  # as NumPy takes them


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
