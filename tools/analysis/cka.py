"""Draw the similarity of members' layers: python tools/analysis/cka.py RUN [RUN ...]"""

from mmkdml.apis import run_tool
from mmkdml.apis.cli.analysis import analysis_parser, named_runs, open_run


def main() -> None:
    parser = analysis_parser(
        'Write heat maps (PNG, SVG) and a CSV of the linear CKA between layers of members.',
        name='cka',
    )
    parser.add_argument(
        '--pair',
        nargs=2,
        action='append',
        metavar='MEMBER',
        help='compare only these two members; may be repeated (default: all teachers with all '
        'students, and the students with each other)',
    )
    parser.add_argument(
        '--layers',
        nargs='+',
        metavar='PATTERN',
        help="shell patterns of layers, e.g. 'backbone.layer?.?' (default: stages, decoder, "
        'logits)',
    )
    parser.add_argument(
        '--batch-size',
        type=int,
        default=32,
        help='larger batches need more memory and reduce noise (default: %(default)s)',
    )
    parser.add_argument('--pool', type=int, metavar='SIZE', help='pool maps to at most SIZE x SIZE')
    args = parser.parse_args()

    import pandas as pd

    from mmkdml.analysis.cka import measure_cka
    from mmkdml.analysis.cka_figure import draw_cka
    from mmkdml.apis.output_folder import OutputFolder

    runs, tables = named_runs(parser, args), {}
    outputs, names = OutputFolder(args.out), ('cka.png', 'cka.svg', 'cka.csv')
    outputs.check(names)
    for title, files in runs.items():
        # The estimate needs random batches.
        model, loader = open_run(
            *files, args.part, args.cfg_options, shuffle=True, batch_size=args.batch_size
        )
        tables[title] = measure_cka(model, loader, args.pair, args.layers, args.pool)
    table = pd.concat(tables, names=['run']).reset_index(level='run')
    outputs.write_text('cka.csv', table.to_csv(index=False))
    with outputs.writing('cka.png') as png, outputs.writing('cka.svg') as svg:
        draw_cka(tables, [png, svg])
    print(*(args.out / name for name in names), sep='\n')


if __name__ == '__main__':
    run_tool(main)
