"""Arguments, runs and data shared by ``tools/analysis``."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkdml.apis.cli.common import add_cfg_options, add_use_config

if TYPE_CHECKING:
    from mmengine.model import BaseModel
    from torch.utils.data import DataLoader


def analysis_parser(description: str, name: str) -> argparse.ArgumentParser:
    """Create a parser with the arguments that all analysis tools share.

    Args:
        description: First line of the help.
        name: Name of the default output folder. The report of a suite displays its pictures.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help='folder of a run, for its config and best checkpoint, or CONFIG CHECKPOINT; several '
        'runs are compared',
    )
    parser.add_argument(
        '--titles',
        nargs='+',
        metavar='TITLE',
        help='titles of the runs (default: names of their folders)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help=f'output folder (default: analysis/{name} in the folder of the run, or in the common '
        'parent of all runs)',
    )
    parser.set_defaults(name=name)
    parser.add_argument(
        '--part',
        choices=('val', 'test'),
        default='test',
        help='part of the data set (default: %(default)s)',
    )
    add_use_config(parser)
    parser.add_argument(
        '--format',
        nargs='+',
        choices=('png', 'svg', 'pdf'),
        default=['png'],
        help='formats of the figures; SVG and PDF for papers (default: %(default)s)',
    )
    parser.add_argument(
        '--columns',
        type=int,
        choices=(1, 2),
        help='width of the figures: one or two columns of a journal (89 or 183 mm), with PNG at '
        '300 dpi (default: as wide as needed)',
    )
    add_cfg_options(parser)
    return parser


def named_runs(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> dict[str, tuple[Path, Path]]:
    """Find the runs and set the default of ``args.out``.

    Args:
        parser: A parser from :func:`analysis_parser`.
        args: Its parsed arguments.

    Returns:
        Config and checkpoint of each run by title.

    Raises:
        FileNotFoundError: See :func:`mmkdml.apis.load_run`.
        SystemExit: If the number of titles differs from that of the runs, or titles are not unique.
        ValueError: See :func:`mmkdml.apis.load_run`.
    """
    from mmkdml.apis import load_run, run_files
    from mmkdml.apis.trained import split_runs

    words = split_runs(args.runs)
    runs = [run_files(*one) for one in words]
    for run, checkpoint in words:
        if checkpoint is not None and run.endswith('.py'):
            load_run(run, checkpoint, args.cfg_options, use_config=args.use_config)
    titles = args.titles or default_titles(runs)
    if len(titles) != len(runs) or len(set(titles)) < len(titles):
        parser.error(
            f'invalid --titles: expected {len(runs)} different titles, one per run, got {titles}'
        )
    if args.out is None:
        above = os.path.commonpath([path.resolve().parent for _, path in runs])
        folder, here = Path(above), Path.cwd()
        folder = folder.relative_to(here) if folder.is_relative_to(here) else folder
        args.out = folder / 'analysis' / args.name
    return dict(zip(titles, runs, strict=True))


def default_titles(runs: Sequence[tuple[Path, Path]]) -> list[str]:
    """Name runs by their folders; equal names are extended until they differ.

    A run of a suite is named by the folder above ``seed_0``. Extensions, in this order: the seed,
    the config, the parent folder, the whole path, the checkpoint.

    Args:
        runs: Config and checkpoint of each run.
    """
    levels = [_title_levels(*run) for run in runs]
    titles = [one[0] for one in levels]
    for level in range(1, len(levels[0])):
        titles = [
            own[level] if titles.count(title) > 1 else title
            for own, title in zip(levels, titles, strict=True)
        ]
    return titles


def _title_levels(config: Path, checkpoint: Path) -> list[str]:
    folder = checkpoint.resolve().parent
    seed = ''
    if re.fullmatch(r'seed_\d+', folder.name):
        seed, folder = f', seed {folder.name.removeprefix("seed_")}', folder.parent
    name = folder.name
    return [
        name,
        f'{name}{seed}',
        f'{name}{seed} ({config.stem})',
        f'{folder.parent.name}/{name}{seed}',
        f'{folder}{seed}',
        f'{folder}{seed}: {checkpoint.stem}',
    ]


def open_run(
    path: Path,
    checkpoint: Path,
    part: str,
    options: Mapping[str, Any],
    shuffle: bool = False,
    **changes: Any,
) -> tuple[BaseModel, DataLoader]:
    """Load the model of a run, on a GPU if available, and build a loader of its data.

    Args:
        path: Config of the run.
        checkpoint: File of the weights.
        part: ``'val'`` or ``'test'``.
        options: Settings of the config to change, by dotted key.
        shuffle: Shuffle the images, in the same order for every run.
        **changes: Settings of the loader to change, such as ``batch_size``.

    Raises:
        FileNotFoundError: If the config, the checkpoint or the data do not exist.
        ValueError: If the checkpoint does not fit the model.
    """
    import torch
    from mmengine.dataset import DefaultSampler
    from mmengine.runner import Runner

    from mmkdml.apis.run.config import load_config
    from mmkdml.apis.trained import load_trained
    from mmkdml.engine import watch_workers

    config = load_config(path, options)
    model = load_trained(config, checkpoint)
    loader = config[f'{part}_dataloader']
    loader.update(sampler=dict(type=DefaultSampler, shuffle=shuffle, seed=0), **changes)
    loader.pop('batch_sampler', None)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.to(device), watch_workers(Runner.build_dataloader(loader, seed=0))
