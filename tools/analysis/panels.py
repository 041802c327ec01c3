"""Draw hard cases as predicted by each member: python tools/analysis/panels.py RUN [RUN ...]"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

from mmkdml.apis import run_tool
from mmkdml.apis.cli.analysis import analysis_parser, named_runs, open_run


def main() -> None:
    parser = analysis_parser(
        'Select hard cases over all runs and write sheets with the predictions of each member, '
        'heat maps of masks, Grad-CAM of classes or boxes, and a CSV of the numbers.',
        name='panels',
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--by',
        choices=('smallest', 'worst', 'disagreement'),
        default='worst',
        help='smallest regions or boxes; worst IoU, F1 of boxes, or probability of the true '
        'class, of the ensemble; largest disagreement of the students (default: %(default)s)',
    )
    which.add_argument('--ids', nargs='+', metavar='ID', help='draw these cases instead')
    parser.add_argument('--num', type=int, default=6, help='number of cases (default: %(default)s)')
    parser.add_argument(
        '--repeat-groups',
        action='store_true',
        help='choose several images of one group (patient, lesion) even if there are others',
    )
    parser.add_argument(
        '--layer',
        help='classification: layer for Grad-CAM (default: the deepest one with a map of at least '
        '7x7 pixels)',
    )
    parser.add_argument(
        '--towards',
        default='predicted',
        metavar='CLASS',
        help='classification: class that Grad-CAM explains: predicted, true, or a name or index '
        '(default: %(default)s)',
    )
    args = parser.parse_args()

    import pandas as pd

    from mmkdml.analysis.case_figure import draw_runs
    from mmkdml.analysis.detection_rows import box_rows
    from mmkdml.analysis.grad_cam import cam_bar, cam_rows
    from mmkdml.analysis.hard_cases import (
        SELECTIONS,
        SMALLEST,
        check_comparable,
        choose_cases,
        measure_cases,
        only_cases,
    )
    from mmkdml.analysis.segmentation_rows import FOREGROUND_BAR, mask_rows
    from mmkdml.apis.output_folder import OutputFolder
    from mmkdml.evaluation import csv_text
    from mmkdml.figures import COLUMN_WIDTHS

    files = named_runs(parser, args)
    outputs = OutputFolder(args.out)
    name = selection_name(args)
    table_name = f'{name}_cases.csv'
    outputs.check([table_name, *(f'{name}.{suffix}' for suffix in args.format)])
    runs = {
        title: open_run(*both, args.part, args.cfg_options, drop_last=False)
        for title, both in files.items()
    }
    task = check_comparable(runs)
    if args.by == SMALLEST and task == 'classification':
        parser.error(
            '--by smallest requires masks or boxes, but these are classifiers: use worst or '
            'disagreement'
        )
    if task != 'classification' and (args.layer or args.towards != 'predicted'):
        parser.error(
            '--layer and --towards are options of Grad-CAM, which explains classifiers: omit them '
            f'for {task}'
        )
    if args.num < 1:
        parser.error(f'invalid --num: expected at least 1, got {args.num}')
    ids = list(dict.fromkeys(args.ids or []))
    tables = {
        title: measure_cases(model, only_cases(loader, ids) if ids else loader, title)
        for title, (model, loader) in runs.items()
    }
    ids = ids or choose_cases(tables, args.by, args.num, args.repeat_groups)
    chosen = {title: (model, only_cases(loader, ids)) for title, (model, loader) in runs.items()}
    if task != 'classification':
        bar = FOREGROUND_BAR
        build_rows = mask_rows if task == 'segmentation' else box_rows
        rows = {title: build_rows(*run) for title, run in chosen.items()}
    else:
        bar = cam_bar(args.towards)
        rows = {title: cam_rows(*run, args.towards, args.layer) for title, run in chosen.items()}
    width = COLUMN_WIDTHS.get(args.columns)
    with tempfile.TemporaryDirectory() as folder:
        selection = 'chosen by id' if args.ids else SELECTIONS[args.by]
        drawn = draw_runs(
            rows, ids, Path(folder), bar, name, selection, dict.fromkeys(args.format), width
        )
        pictures = [path.name for path in drawn]
        outputs.check(pictures)
        for path in drawn:
            with outputs.writing(path.name) as part:
                shutil.copyfile(path, part)
    table = pd.concat({title: cases.set_index('id').loc[ids] for title, cases in tables.items()})
    table = table.convert_dtypes().rename_axis(['run', 'id']).reset_index()
    outputs.write_text(table_name, csv_text(table.round(3)))
    print(*(args.out / one for one in (*pictures, table_name)), sep='\n')


def selection_name(args: argparse.Namespace) -> str:
    """Return the start of the file names, so that different selections do not replace each other.

    It consists of the criterion (``ids`` for named cases) and all options that differ from their
    defaults.
    """
    options = [
        args.part if args.part != 'test' else '',
        'ids' if args.ids else args.by,
        f'towards_{args.towards}' if args.towards != 'predicted' else '',
        args.layer or '',
    ]
    return re.sub('[^A-Za-z0-9.+-]+', '_', '_'.join(filter(None, options)))


if __name__ == '__main__':
    run_tool(main)
