"""Arguments, runs and data shared by ``tools/analysis``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkdml.apis.cli.common import add_cfg_options, add_use_config

if TYPE_CHECKING:
    from mmengine.model import BaseModel
    from torch.utils.data import DataLoader


def analysis_parser(description: str, name: str) -> argparse.ArgumentParser:
    """Create a parser with ``RUN``, ``--titles``, ``--out``, ``--part`` and ``--cfg-options``.

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
    parser.add_argument('--titles', nargs='+', metavar='TITLE', help='titles of the runs')
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
    titles = args.titles or ['/'.join(path.parent.parts[-2:]) for _, path in runs]
    if len(titles) != len(runs) or len(set(titles)) < len(titles):
        parser.error(
            f'invalid --titles: expected {len(runs)} different titles, one per run, got {titles}'
        )
    if args.out is None:
        above = os.path.commonpath([path.resolve().parent for _, path in runs])
        args.out = Path(os.path.relpath(above)) / 'analysis' / args.name
    return dict(zip(titles, runs, strict=True))


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

    from mmkdml.apis.run_config import load_config
    from mmkdml.apis.trained import load_trained
    from mmkdml.engine import watch_workers

    config = load_config(path, options)
    model = load_trained(config, checkpoint)
    loader = config[f'{part}_dataloader']
    loader.update(sampler=dict(type=DefaultSampler, shuffle=shuffle, seed=0), **changes)
    loader.pop('batch_sampler', None)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.to(device), watch_workers(Runner.build_dataloader(loader, seed=0))
