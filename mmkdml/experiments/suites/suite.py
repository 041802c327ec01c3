"""Suite files: configs, seeds and options of runs, and their teachers."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import yaml  # type: ignore[import-untyped]

from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.claims import parse_claims
from mmkdml.experiments.suites.fold_runs import fold_runs
from mmkdml.packages import packaged_file
from mmkdml.safe_yaml import SafeYamlLoader
from mmkdml.statistics.measures import MEASURES
from mmkdml.statistics.records import SuiteClaim

_KEYS = {
    'title', 'measures', 'seeds', 'folds', 'runs', 'variants', 'options', 'amp', 'paper_tables',
    'work_dir', 'claims',
}  # fmt: skip
_RUN_KEYS = {'name', 'config', 'teacher', 'teacher_folds', 'options'}
#: Values of ``teacher_folds``.
SAME, OUT = 'same', 'out'
# Inheritance and predefined variables of mmengine's config files.
_MMENGINE_SYNTAX = ('_base_', 'read_base', '{{')
_DATA_FILES = ('.yaml', '.yml', '.json')
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_.-]*')


@dataclass(frozen=True)
class Suite:
    """A suite of runs.

    Attributes:
        name: Stem of the suite file.
        path: Suite file, as passed to :func:`load_suite`.
        title: One-line description.
        measures: Measures in its tables, names from :data:`~.measures.MEASURES`.
        paper_tables: Tables of the paper with the same rows and columns, e.g. ``'Table 4'``.
        runs: All runs of the first seed, then of the next; of each seed, teachers of other folds
            first, then fold after fold; of each fold, teachers first.
        work_dir: Folder of the runs.
        claims: The suite's own claims, in addition to those of the paper.
        folds: Number of folds of a cross-validation; None without.
    """

    name: str
    path: str
    title: str
    measures: tuple[str, ...]
    paper_tables: tuple[str, ...]
    runs: tuple[RunSpec, ...]
    work_dir: Path
    folds: int | None = None
    claims: tuple[SuiteClaim, ...] = ()


def load_suite(path: str | Path, work_dir: str | Path | None = None) -> Suite:
    """Load a suite file.

    A suite file is a Python, YAML or JSON file with the keys

    - ``measures``: names from :data:`~.measures.MEASURES`;
    - ``title`` and ``paper_tables``: see :class:`Suite`; both optional;
    - ``seeds``: list of integers;
    - ``folds``: number of folds of a cross-validation, for data that were converted with this
      number of folds; every run is executed in each fold, with the teacher of the same fold;
    - ``runs``: list of ``dict(config=..., name=..., teacher=..., options=...)``. ``name`` defaults
      to the name of the config; ``teacher`` is the name of the run whose best checkpoint is the
      frozen teacher. ``teacher_folds='out'`` trains a copy of it without the test images of each
      pair of folds, which teaches those of one in the runs of the other. Images are then taught by
      a teacher that has seen neither them nor the test images. Default: ``'same'``, the teacher
      of the same fold;
    - ``options``: settings that are changed in every run, by dotted key;
    - ``variants``: changed settings by name of the variant; every run is executed in each variant;
    - ``amp``: train in mixed precision;
    - ``claims``: list of ``dict(entry='kdml_v3', competitors=['kdml_v1'], primary=True)``, see
      :func:`~.suites.claims.parse_claims`;
    - ``work_dir``: default ``work_dirs/suites/<name of the file>``.

    ``_base_`` lists files to inherit; YAML and JSON files can only inherit YAML and JSON files.
    Variables whose names begin with an underscore are ignored. Options of a run take precedence
    over those of its variant, which take precedence over those of the suite.

    Args:
        path: Suite file.
        work_dir: Overrides the ``work_dir`` of the file.

    Raises:
        FileNotFoundError: If the suite file or a config does not exist.
        ValueError: If the file has a syntax error, a key is unknown or missing, a value is invalid,
            there are no runs or seeds, a name occurs twice, or a teacher is not a run of the suite
            or depends on its student.
    """
    path = packaged_file(path, 'suites')
    if not path.is_file():
        raise FileNotFoundError(f'Suite file not found: {path}')
    content = {key: value for key, value in _read(path).items() if str(key)[:1] != '_'}
    _check_keys(str(path), content, _KEYS, ('runs', 'seeds', 'measures'))
    measures = _names('measures', path, content['measures'])
    unknown = [name for name in measures if name not in MEASURES]
    if unknown:
        raise _invalid('measures', path, f'names among {", ".join(MEASURES)}', unknown)
    own_dir = _string('work_dir', path, content.get('work_dir'))
    runs = tuple(_expand(path, content))
    names = list(dict.fromkeys(run.run for run in runs))
    return Suite(
        name=path.stem,
        path=str(path),
        title=str(content.get('title', path.stem)),
        measures=measures,
        paper_tables=_names('paper_tables', path, content.get('paper_tables', ())),
        runs=runs,
        work_dir=Path(work_dir or own_dir or Path('work_dirs') / 'suites' / path.stem),
        claims=parse_claims(str(path), content.get('claims', []), names, measures),
        folds=content.get('folds'),
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
    except Exception as error:  # Python, YAML and JSON raise different types
        raise ValueError(
            f'Cannot read suite file {path}: {type(error).__name__}: {error}'
        ) from error


def _as_dict(text: str, suffix: str) -> dict[str, Any]:
    content = json.loads(text) if suffix == '.json' else yaml.load(text, SafeYamlLoader)
    if not isinstance(content, dict):
        raise TypeError(f'expected a dict, got {type(content).__name__}')
    return content


def _read_with_mmengine(path: Path) -> dict[str, Any]:
    """Read a file that inherits others; mmengine is only imported for such files."""
    from mmengine.config import Config

    import mmkdml.compat  # noqa: F401  # makes mmengine read YAML safely

    if path.suffix in _DATA_FILES:
        _refuse_inherited_code(path)
    # Not as a pure-Python config, which does not support computed values.
    return Config.fromfile(path, lazy_import=False, import_custom_modules=False).to_dict()


def _refuse_inherited_code(path: Path) -> None:
    """Raise if a data file inherits a Python file, which would be executed."""
    bases = _as_dict(path.read_text(encoding='utf-8'), path.suffix).get('_base_', [])
    for base in [bases] if isinstance(bases, str) else bases:
        if not base.endswith(_DATA_FILES) or '{{' in base or '::' in base:
            raise _invalid('_base_', path, f'paths of {", ".join(_DATA_FILES)} files', base)
        _refuse_inherited_code(path.parent / base)


def _expand(path: Path, content: Mapping[str, Any]) -> list[RunSpec]:
    """Expand runs, variants and seeds of a suite file."""
    seeds = content['seeds']
    if not _is_list(seeds) or not seeds or not all(map(_is_seed, seeds)):
        raise _invalid('seeds', path, 'a list of integers from 0 to 2^32 - 1', seeds)
    if len(set(seeds)) < len(seeds):
        raise _invalid('seeds', path, 'each seed once', list(seeds))
    entries = content['runs']
    if not _is_list(entries) or not entries:
        raise _invalid('runs', path, 'a list of dicts', entries)
    variants = _dict('variants', path, content.get('variants')) or {'': {}}
    common = _dict('options', path, content.get('options'))
    by_name: dict[str, dict[str, Any]] = {}
    taught_out: list[str] = []
    for variant, options in variants.items():
        changes = _dict(f'variant {variant!r}', path, options)
        prefix = f'{_folder_name(path, variant)}/' if variant else ''
        for entry in entries:
            _check_keys(f'{path}, run {entry!r}', entry, _RUN_KEYS, ('config',))
            config = _config_path(path, _string(f'config of {entry!r}', path, entry['config']))
            name = prefix + _folder_name(path, entry.get('name', Path(config).stem))
            if name in by_name:
                raise ValueError(
                    f'Invalid runs in {path}: expected different names, got {name!r} for '
                    f'{by_name[name]["config"]} and {config}. Set the name of one of them'
                )
            if not Path(config).is_file():
                raise FileNotFoundError(
                    f'Config {config} of run {name!r} in {path} not found. The path is relative to '
                    'the working directory, or to the folder above that of the suite'
                )
            teacher = _string(f'teacher of {name!r}', path, entry.get('teacher'))
            own = _dict(f'options of {name!r}', path, entry.get('options'))
            if entry.get('teacher_folds', SAME) not in (SAME, OUT):
                expected = f'{SAME!r} or {OUT!r}'
                raise _invalid(f'teacher_folds of {name!r}', path, expected, entry['teacher_folds'])
            if entry.get('teacher_folds') == OUT:
                taught_out.append(name)
            by_name[name] = dict(
                config=config,
                teacher=prefix + teacher if teacher else None,
                amp=bool(content.get('amp', False)),
                options={**common, **changes, **own},
            )
    order = _teachers_first(path, by_name)
    folds = content.get('folds')
    least = 3 if taught_out else 2  # with two, no images would be left to train the teachers
    by_seed = [[RunSpec(name, seed, **by_name[name]) for name in order] for seed in seeds]
    if folds is None and not taught_out:
        return list(chain.from_iterable(by_seed))
    if type(folds) is not int or folds < least:
        for_out = f' for teacher_folds of {taught_out[0]!r}' if taught_out else ''
        raise _invalid(f'folds{for_out}', path, f'an integer of at least {least}', folds)
    for name in taught_out:
        teacher = by_name[name]['teacher']
        if teacher is None or by_name[teacher]['teacher'] is not None:
            expected = 'a run without a teacher of its own, because of teacher_folds'
            raise _invalid(f'teacher of {name!r}', path, expected, teacher)
    return [run for runs in by_seed for run in fold_runs(runs, folds, taught_out)]


def _config_path(suite: Path, config: str) -> str:
    """Find a config as from the working directory, or next to the folder of an installed suite."""
    if '::' in config:
        return str(packaged_file(config))
    above = suite.resolve().parent.parent / config
    return str(above) if not Path(config).is_file() and above.is_file() else config


def _teachers_first(path: Path, runs: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Order runs as in the file, but all teachers first, so that workers rarely wait for them."""
    for name, run in runs.items():
        if run['teacher'] is not None and run['teacher'] not in runs:
            expected = f'a run of the suite ({", ".join(runs)})'
            raise _invalid(f'teacher of {name!r}', path, expected, run['teacher'])
    graph = {name: [run['teacher']] if run['teacher'] else [] for name, run in runs.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = ' -> '.join(error.args[1])
        raise _invalid('teachers', path, 'no circular dependency', cycle) from error
    teachers = {run['teacher'] for run in runs.values()}
    return [name for name in order if name in teachers] + [n for n in runs if n not in teachers]


def _check_keys(where: str, content: Any, allowed: set[str], required: Sequence[str]) -> None:
    if not isinstance(content, Mapping):
        raise ValueError(f'{where}: expected a dict, got {type(content).__name__}')
    unknown = sorted(map(str, set(content) - allowed))
    missing = [key for key in required if key not in content]
    problems = [
        f'{kind} {", ".join(keys)}' for kind, keys in (('missing', missing), ('unknown', unknown))
        if keys
    ]  # fmt: skip
    if problems:
        raise ValueError(
            f'{where}: {"; ".join(problems)}. Valid keys: {", ".join(sorted(allowed))}'
        )


def _folder_name(path: Path, name: Any) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _invalid('name', path, 'letters, digits, "_", "-" and ".", as in a folder name', name)
    return name


def _names(what: str, path: Path, names: Any) -> tuple[str, ...]:
    if not _is_list(names) or not all(isinstance(name, str) for name in names):
        raise _invalid(what, path, 'a list of names', names)
    return tuple(names)


def _string(what: str, path: Path, value: Any) -> str:
    if not isinstance(value, str | None):
        raise _invalid(what, path, 'a string', value)
    return value or ''


def _dict(what: str, path: Path, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping | None) or not all(isinstance(k, str) for k in values or ()):
        raise _invalid(what, path, 'a dict with names as keys', values)
    return values or {}


def _invalid(what: str, path: Path, expected: str, value: Any) -> ValueError:
    return ValueError(f'Invalid {what} in {path}: expected {expected}, got {value!r}')


def _is_seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 32  # the range of NumPy's seeds


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))
