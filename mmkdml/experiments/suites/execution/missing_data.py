"""Check that the data of a suite exist before its first run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from mmengine.config import Config

from mmkdml.datasets.needed_files import NeededFiles, needed_files
from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.names import SPLITS
from mmkdml.statistics.records import DONE, FAILED

_MOST_PATHS, _MOST_NAMES = 4, 3


class DataCheck:
    """Data of the runs that a suite will execute.

    Finished runs need no data, nor do failed ones unless they are retried.

    Args:
        runs: Runs of the suite.
        store: Its database; runs may not be registered yet.
        retry: Whether failed runs are executed again.
        folds: Number of folds of the suite, if any.
    """

    def __init__(
        self, runs: Iterable[RunSpec], store: SuiteStore, retry: bool, folds: int | None
    ) -> None:
        ended = (DONE,) if retry else (DONE, FAILED)
        done = {(run.name, run.seed) for run in store.states() if run.state in ended}
        self._runs = [run for run in runs if (run.name, run.seed) not in done]
        self._names = {run.name for run in self._runs}
        self._folds = folds
        self._users: dict[NeededFiles, dict[str, None]] = {}

    def add(self, name: str, config: Config) -> None:
        """Add the data sets of a run.

        Args:
            name: Name of the run.
            config: Its config, of any seed.
        """
        if name in self._names:
            loaders = [config.get(f'{split}_dataloader') for split in SPLITS]
            for files in needed_files(loaders, self._folds):
                self._users.setdefault(files, {})[name] = None

    def check(self) -> None:
        """Check each data set once.

        Raises:
            FileNotFoundError: If files of some do not exist; lists them with the numbers of runs
                and the commands of the converters.
        """
        missing: dict[str, tuple[dict[str, None], set[str]]] = {}
        for files, users in self._users.items():
            if found := files.missing():
                paths, names = missing.setdefault(files.command, ({}, set()))
                paths.update(dict.fromkeys(found))
                names.update(users)
        if missing:
            lines = '\n'.join(
                line
                for command, (paths, names) in missing.items()
                for line in self._lines(command, paths, names)
            )
            raise FileNotFoundError(
                f'Missing data, no run was started:\n{lines}\nConvert the data, or set data_root '
                'and ann_file in the options of the suite; both are relative to the working '
                'directory'
            )

    def _lines(self, command: str, paths: Collection[str], names: Collection[str]) -> Iterator[str]:
        runs = [run for run in self._runs if run.name in names]
        plural = 's' if len(runs) != 1 else ''
        yield f'  {_some(list(paths), _MOST_PATHS)}'
        shown = list(dict.fromkeys(run.run for run in runs))
        yield f'    for {len(runs)} run{plural}: {_some(shown, _MOST_NAMES)}'
        yield f'    {command}'


def _some(values: Sequence[str], most: int) -> str:
    more = [f'... ({len(values) - most} more)'] if len(values) > most else []
    return ', '.join([*values[:most], *more])
