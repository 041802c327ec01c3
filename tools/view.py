"""View predictions in a local web page: python tools/view.py RUN [IN ...]"""

import argparse
from pathlib import Path

from mmkdml.apis import run_tool
from mmkdml.apis.cli.common import add_cfg_options, add_slicing, add_use_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Serve a page with the predictions of every member, for this machine only.'
    )
    parser.add_argument(
        'run',
        metavar='RUN',
        help='folder of a run, for its config and best checkpoint, or CONFIG CHECKPOINT',
    )
    parser.add_argument(
        'images',
        metavar='IN',
        nargs='*',
        help='images, TIFF stacks, NIfTI volumes, DICOM series, or folders of them (default: the '
        'test split of the run, with its truth)',
    )
    parser.add_argument(
        '--truth', type=Path, metavar='DIR', help='folder of true masks, named like the images'
    )
    parser.add_argument(
        '--port', type=int, default=7860, help='0 selects a free port (default: %(default)s)'
    )
    parser.add_argument('--no-browser', action='store_true', help='only print the address')
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: a GPU if there is one)')
    add_slicing(parser)
    add_use_config(parser)
    add_cfg_options(parser)
    args = parser.parse_args()

    from mmkdml.apis import ReadOptions, load, load_run
    from mmkdml.apis.trained import split_words
    from mmkdml.apis.view import view
    from mmkdml.optional import check_extra

    run, checkpoint, images = split_words([args.run, *args.images])
    config, weights = load_run(
        run, checkpoint, args.cfg_options, use_config=args.use_config, only_prediction=True
    )
    check_extra('gradio', extra='view', purpose='the viewer')  # before the networks are built
    read = ReadOptions(args.plane, tuple(args.window) if args.window else None)
    predictor = load(config, weights, args.device)
    view(predictor, images, args.truth, args.port, not args.no_browser, read)


if __name__ == '__main__':
    run_tool(main)
