"""What the command lines of ``tools/analysis`` share: their runs, and the data to look at."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dataset import DefaultSampler
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkdml.apis.cli.common import add_cfg_options
from mmkdml.apis.runs import load_config
from mmkdml.apis.trained import find_runs, load_trained
from mmkdml.engine import watch_workers


def analysis_parser(description: str, name: str) -> argparse.ArgumentParser:
    """A parser with ``RUN``, ``--titles``, ``--out``, ``--part`` and ``--cfg-options``.

    Args:
        description: First line of the help.
        name: Of the folder to write to by default, in which a suite's report looks for pictures.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help="a run's folder for its config and best checkpoint, or CONFIG CHECKPOINT; several "
        'stand side by side',
    )
    parser.add_argument('--titles', nargs='+', help="the runs' names in the picture")
    parser.add_argument(
        '--out',
        type=Path,
        help=f'folder (analysis/{name} in that of the run, or in what is above all runs)',
    )
    parser.set_defaults(name=name)
    parser.add_argument('--part', choices=('val', 'test'), default='test')
    add_cfg_options(parser)
    return parser


def named_runs(
    parser: argparse.ArgumentParser, args: argparse.Namespace
) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of each run that was given, by its title; settles ``args.out``.

    Args:
        parser: Of :func:`analysis_parser`.
        args: What it parsed.

    Raises:
        FileNotFoundError: See :func:`mmkdml.apis.find_runs`.
        SystemExit: If there is not one title for each, or two are the same.
        ValueError: See :func:`mmkdml.apis.find_runs`.
    """
    runs = find_runs(args.runs)
    titles = args.titles or ['/'.join(path.parent.parts[-2:]) for _, path in runs]
    if len(titles) != len(runs) or len(set(titles)) < len(titles):
        parser.error(f'give --titles, a different one for each of the {len(runs)} runs: {titles}')
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
    """The model of a run, on a GPU if there is one, and a loader of its data.

    Args:
        path: The config.
        checkpoint: The weights.
        part: ``'val'`` or ``'test'``.
        options: Of the config, by dotted key.
        shuffle: Draw the images in random order, the same one for every run; or as they come.
        **changes: Of the loader's config, such as ``batch_size``.

    Raises:
        FileNotFoundError: If there is no such config, checkpoint or data.
        ValueError: If the checkpoint does not fit.
    """
    config = load_config(path, options)
    model = load_trained(config, checkpoint)
    loader = config[f'{part}_dataloader']
    loader.update(sampler=dict(type=DefaultSampler, shuffle=shuffle, seed=0), **changes)
    loader.pop('batch_sampler', None)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return model.to(device), watch_workers(Runner.build_dataloader(loader, seed=0))
