"""Draw the similarity of members' layers: python tools/analysis/cka.py RUN [RUN ...]"""

from contextlib import ExitStack

from mmkdml.apis import run_tool
from mmkdml.apis.cli.analysis import analysis_parser, named_runs, open_run


def main() -> None:
    parser = analysis_parser(
        'Write heat maps and a CSV of the linear CKA between layers of members.', name='cka'
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
    parser.set_defaults(format=['png', 'svg'])
    args = parser.parse_args()

    import pandas as pd

    from mmkdml.analysis.cka import measure_cka
    from mmkdml.analysis.cka_figure import draw_cka
    from mmkdml.apis.output_folder import OutputFolder
    from mmkdml.figures import COLUMN_WIDTHS

    runs, tables = named_runs(parser, args), {}
    pictures = [f'cka.{suffix}' for suffix in dict.fromkeys(args.format)]
    outputs, names = OutputFolder(args.out), [*pictures, 'cka.csv']
    outputs.check(names)
    for title, files in runs.items():
        # The estimate needs random batches.
        model, loader = open_run(
            *files, args.part, args.cfg_options, shuffle=True, batch_size=args.batch_size
        )
        tables[title] = measure_cka(model, loader, args.pair, args.layers, args.pool)
    table = pd.concat(tables, names=['run']).reset_index(level='run')
    outputs.write_text('cka.csv', table.to_csv(index=False))
    with ExitStack() as stack:
        parts = [stack.enter_context(outputs.writing(name)) for name in pictures]
        draw_cka(tables, parts, COLUMN_WIDTHS.get(args.columns))
    print(*(args.out / name for name in names), sep='\n')


if __name__ == '__main__':
    run_tool(main)
