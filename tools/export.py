"""Exports a trained network or ensemble: python tools/export.py RUN --what ensemble --out DIR"""

import sys
from pathlib import Path

import pandas as pd

from mmkdml.apis import config_parser, load_config, run_tool
from mmkdml.apis.export.card import INTENDED_USE, LICENCE, make_card, write_card
from mmkdml.apis.export.checks import (
    case_table,
    dataset_images,
    dataset_of,
    folder_images,
    lacks_of_cases,
)
from mmkdml.apis.export.formats import (
    CHECKPOINT,
    FORMATS,
    export,
    measure_latencies,
    new_folder,
    speed_ups,
)
from mmkdml.apis.export.source import load_source
from mmkdml.apis.trained import run_files
from mmkdml.statistics.case_scores import case_scores

CALIBRATION = 100


def main() -> None:
    parser = config_parser(
        'Write a plain checkpoint, ONNX or torch.export, with a model card. CONFIG may be the '
        'folder of a run, which holds its config and its checkpoint.'
    )
    parser.add_argument(
        'checkpoint',
        nargs='?',
        metavar='CHECKPOINT',
        help='checkpoint file, or the folder of a run for its best checkpoint',
    )
    parser.add_argument('--what', default='ensemble', help='a member, or ensemble (default)')
    parser.add_argument('--format', default='onnx', choices=FORMATS)
    parser.add_argument('--out', metavar='DIR', required=True, help='folder to write to')
    parser.add_argument('--force', action='store_true', help='replace exported files')
    parser.add_argument('--int8', action='store_true', help='an int8 model beside the ONNX')
    parser.add_argument(
        '--images', metavar='DIR', help='check on these, not on the test part, and measure nothing'
    )
    parser.add_argument(
        '--check', type=int, default=50, metavar='N', help='number of images to check on (50)'
    )
    parser.add_argument('--intended-use', default=INTENDED_USE, help='for the model card')
    parser.add_argument('--licence', default=LICENCE, help='for the model card')
    args = parser.parse_args()
    if args.int8 and args.images:
        parser.error('--int8 is measured on the test part: leave out --images')
    if args.check < 1:
        parser.error(f'--check must be at least 1, got {args.check}')

    file, checkpoint = run_files(args.config, args.checkpoint)
    config = load_config(file, args.cfg_options)
    with new_folder(args.out, args.force) as folder:
        test = None if args.images else dataset_of(config, 'test')
        lacks = () if test is None else lacks_of_cases(test)
        if lacks:
            reason = (
                f'the samples of the test part have no {" and ".join(lacks)}: add them to the data '
                "set and to meta_keys of the pipeline's Pack transform"
            )
            if args.int8:
                parser.error(f'--int8 is measured on cases, but {reason}')
            print(f'warning: quality is not measured, because {reason}', file=sys.stderr)
        images = list(
            folder_images(config, args.images, args.check)
            if test is None
            else dataset_images(test, args.check)
        )
        source = load_source(config, checkpoint, args.what, images[0].shape[1:])
        calibration = dataset_images(dataset_of(config, 'val'), CALIBRATION) if args.int8 else None
        exported = export(source, folder, args.format, images, calibration)
        print(
            f'Largest difference from PyTorch on {exported.agreement.images} images: '
            f'{exported.agreement.max_difference:.2g}'
        )
        scores = None
        if test is not None and not lacks:
            tables = [case_table(one, source, test, name) for name, one in exported.answers.items()]
            scores = case_scores(pd.concat(tables), args.format if args.int8 else None)
            print(scores.to_string(index=False, float_format='%.2f', na_rep=''))
        times = measure_latencies(exported, source)
        ratios = speed_ups(times)
        for name, time in times.items():
            ratio = f', {ratios[name]:.2f} times as fast as the teacher' if name in ratios else ''
            print(f'{name}: {time:.2f} ms for one image{ratio}')
        describe = (times, scores, args.intended_use, args.licence)
        write_card(make_card(source, args.format, folder, exported, *describe), folder)
    if args.format == CHECKPOINT:
        needs = ' and '.join(exported.needs)
        print(f'It needs {needs} installed' if needs else 'It is plain: mmkdml is not needed')
    print(f'Exported to {Path(args.out)}')


if __name__ == '__main__':
    run_tool(main)
