"""Draw hard cases as predicted by each member: python tools/analysis/panels.py RUN [RUN ...]"""

import shutil
import tempfile
from pathlib import Path

from mmkdml.apis import run_tool
from mmkdml.apis.cli.analysis import analysis_parser, named_runs, open_run


def main() -> None:
    parser = analysis_parser(
        'Select hard cases over all runs and write sheets (PNG) with the predictions of each '
        'member, heat maps of masks or Grad-CAM of classes, and a CSV of the numbers.',
        name='panels',
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        '--by',
        choices=('smallest', 'worst', 'disagreement'),
        default='worst',
        help='smallest regions; worst IoU, or probability of the true class, of the ensemble; '
        'largest disagreement of the students (default: %(default)s)',
    )
    which.add_argument('--ids', nargs='+', metavar='ID', help='draw these cases instead')
    parser.add_argument('--num', type=int, default=6, help='number of cases (default: %(default)s)')
    parser.add_argument(
        '--layer', help='classification: layer for Grad-CAM (default: the last feature map)'
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

    from mmkdml.analysis.case_figure import FOREGROUND_BAR, draw_runs, mask_rows
    from mmkdml.analysis.grad_cam import cam_bar, cam_rows
    from mmkdml.analysis.hard_cases import (
        SMALLEST,
        check_comparable,
        choose_cases,
        measure_cases,
        only_cases,
    )
    from mmkdml.apis.output_folder import OutputFolder
    from mmkdml.evaluation import csv_text

    files = named_runs(parser, args)
    outputs = OutputFolder(args.out)
    outputs.check(['cases.csv', 'panels.png'])
    runs = {
        title: open_run(*both, args.part, args.cfg_options, drop_last=False)
        for title, both in files.items()
    }
    segmentation = check_comparable(runs) == 'segmentation'
    if args.by == SMALLEST and not segmentation:
        parser.error(
            '--by smallest requires masks, but these are classifiers: use worst or disagreement'
        )
    if args.num < 1:
        parser.error(f'invalid --num: expected at least 1, got {args.num}')
    ids = list(dict.fromkeys(args.ids or []))
    tables = {
        title: measure_cases(model, only_cases(loader, ids) if ids else loader, title)
        for title, (model, loader) in runs.items()
    }
    ids = ids or choose_cases(tables, args.by, args.num)
    chosen = {title: (model, only_cases(loader, ids)) for title, (model, loader) in runs.items()}
    if segmentation:
        bar = FOREGROUND_BAR
        rows = {title: mask_rows(*run) for title, run in chosen.items()}
    else:
        bar = cam_bar(args.towards)
        rows = {title: cam_rows(*run, args.towards, args.layer) for title, run in chosen.items()}
    with tempfile.TemporaryDirectory() as folder:
        pictures = [path.name for path in draw_runs(rows, ids, Path(folder), bar)]
        outputs.check(pictures)
        for name in pictures:
            with outputs.writing(name) as part:
                shutil.copyfile(Path(folder, name), part)
    table = pd.concat({title: cases.set_index('id').loc[ids] for title, cases in tables.items()})
    table = table.convert_dtypes().rename_axis(['run', 'id']).reset_index()
    outputs.write_text('cases.csv', csv_text(table))
    print(*(args.out / name for name in (*pictures, 'cases.csv')), sep='\n')


if __name__ == '__main__':
    run_tool(main)
