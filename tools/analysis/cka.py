"""Draws how alike members' layers are: python tools/analysis/cka.py RUN [RUN ...]"""

import pandas as pd

from mmkdml.analysis.cka import measure_cka
from mmkdml.analysis.cka_figure import draw_cka
from mmkdml.apis import run_tool
from mmkdml.apis.cli.analysis import analysis_parser, named_runs, open_run
from mmkdml.apis.output_folder import OutputFolder


def main() -> None:
    parser = analysis_parser(
        "Write heat maps (PNG, SVG) and a CSV of linear CKA between members' layers.", name='cka'
    )
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
    parser.add_argument(
        '--batch-size', type=int, default=32, help='more cost memory and make less noise (32)'
    )
    parser.add_argument('--pool', type=int, help='average maps to at most this height and width')
    args = parser.parse_args()
    runs, tables = named_runs(parser, args), {}
    outputs, names = OutputFolder(args.out), ('cka.png', 'cka.svg', 'cka.csv')
    outputs.check(names)
    for title, files in runs.items():
        # Random batches, as the estimate needs.
        model, loader = open_run(
            *files, args.part, args.cfg_options, shuffle=True, batch_size=args.batch_size
        )
        tables[title] = measure_cka(model, loader, args.pair, args.layers, args.pool)
    whole = pd.concat(tables, names=['run']).reset_index(level='run')
    outputs.write_text('cka.csv', whole.to_csv(index=False))
    with outputs.writing('cka.png') as png, outputs.writing('cka.svg') as svg:
        draw_cka(tables, [png, svg])
    print(*(args.out / name for name in names), sep='\n')


if __name__ == '__main__':
    run_tool(main)
