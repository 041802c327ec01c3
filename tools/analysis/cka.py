"""Draws how alike members' layers are: python tools/analysis/cka.py RUN [RUN ...]"""

import argparse
from pathlib import Path

import pandas as pd
import torch
from mmengine.config import DictAction
from mmengine.dataset import DefaultSampler
from mmengine.runner import Runner

from mmkdml.analysis.cka import measure_cka
from mmkdml.analysis.cka_figure import draw_cka
from mmkdml.apis import find_runs, load_config, load_trained, run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Write heat maps (PNG, SVG) and a CSV of linear CKA between members' layers."
    )
    parser.add_argument(
        'runs',
        nargs='+',
        metavar='RUN',
        help="a run's folder for its config and best checkpoint, or CONFIG CHECKPOINT; several "
        'stand side by side',
    )
    parser.add_argument('--titles', nargs='+', help="the runs' names in the picture")
    parser.add_argument('--out', type=Path, default=Path('cka'), help='folder (%(default)s)')
    parser.add_argument(
        '--pair',
        nargs=2,
        action='append',
        metavar='MEMBER',
        help='compare these two alone; again for more pairs (all teachers with all students, and '
        'the students with each other)',
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        metavar='PATTERN',
        help="shell patterns of layers, e.g. 'backbone.layer?.?' (stages, decoder, logits)",
    )
    parser.add_argument('--part', choices=('val', 'test'), default='test')
    parser.add_argument(
        '--batch-size', type=int, default=32, help='more cost memory and make less noise (32)'
    )
    parser.add_argument('--pool', type=int, help='average maps to at most this height and width')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, default={}, metavar='KEY=VALUE'
    )
    args = parser.parse_args()
    runs = find_runs(args.runs)
    titles = args.titles or ['/'.join(path.parent.parts[-2:]) for _, path in runs]
    if len(titles) != len(runs) or len(set(titles)) < len(titles):
        parser.error(f'give --titles, a different one for each of the {len(runs)} runs: {titles}')
    tables = {}
    for title, (path, checkpoint) in zip(titles, runs, strict=True):
        config = load_config(path, args.cfg_options)
        model = load_trained(config, checkpoint)
        loader = config[f'{args.part}_dataloader']
        loader.update(
            batch_size=args.batch_size,
            # Random batches, as the estimate needs, and the same ones for every run.
            sampler=dict(type=DefaultSampler, shuffle=True, seed=0),
        )
        loader.pop('batch_sampler', None)
        tables[title] = measure_cka(
            model.to('cuda' if torch.cuda.is_available() else 'cpu'),
            Runner.build_dataloader(loader, seed=0),
            args.pair,
            args.layers,
            args.pool,
        )
    args.out.mkdir(parents=True, exist_ok=True)
    whole = pd.concat(tables, names=['run']).reset_index(level='run')
    whole.to_csv(args.out / 'cka.csv', index=False)
    pictures = [args.out / 'cka.png', args.out / 'cka.svg']
    draw_cka(tables, pictures)
    print(*pictures, args.out / 'cka.csv', sep='\n')


if __name__ == '__main__':
    run_tool(main)
