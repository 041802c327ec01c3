"""Predict images: python tools/predict.py RUN IN [IN ...] --out DIR"""

import argparse

from mmkdml.apis import run_tool
from mmkdml.apis.cli.common import add_cfg_options, add_slicing, add_use_config


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write the predictions of every member and of the ensemble for images.'
    )
    parser.add_argument(
        'run',
        metavar='RUN',
        help='folder of a run, for its config and best checkpoint, or CONFIG CHECKPOINT; or a '
        'folder with the runs of all folds of a cross-validation, whose probabilities are averaged',
    )
    parser.add_argument(
        'images',
        metavar='IN',
        nargs='+',
        help='images, TIFF stacks, NIfTI volumes (CASE_0000.nii.gz, CASE_0001.nii.gz, ... are the '
        'channels of one case), DICOM series, or folders of them',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output folder')
    parser.add_argument(
        '--members',
        nargs='+',
        metavar='NAME',
        help='write only the predictions of these, e.g. ensemble (default: all)',
    )
    parser.add_argument(
        '--exclude', metavar='PATTERN', help="skip files whose names match, e.g. '*_mask.*'"
    )
    parser.add_argument(
        '--batch-size', type=int, default=8, help='images per batch (default: %(default)s)'
    )
    parser.add_argument('--device', help='e.g. cpu or cuda:1 (default: a GPU if there is one)')
    parser.add_argument(
        '--seed', type=int, help='seed of the runs of folds, if there are several in RUN'
    )
    parser.add_argument('--tta', action='store_true', help='use test-time augmentation')
    parser.add_argument('--no-overlays', action='store_true', help='do not draw overlays')
    parser.add_argument(
        '--score',
        type=float,
        metavar='MIN',
        help='detection: lowest score of the boxes in overlays; the files contain all boxes '
        '(default: 0.3)',
    )
    parser.add_argument(
        '--segments',
        metavar='CODES',
        help='also write DICOM segmentation objects, with the codes of the classes in a JSON file',
    )
    parser.add_argument('--force', action='store_true', help='predict finished images again')
    add_slicing(parser)
    parser.add_argument(
        '--max-megapixels',
        type=float,
        default=50,
        help='reject larger images (default: %(default)s)',
    )
    add_use_config(parser)
    add_cfg_options(parser)
    args = parser.parse_args()

    from mmkdml.apis import ReadOptions, load, load_run, predict_files
    from mmkdml.apis.prediction.fold_predictor import FoldPredictor, find_fold_runs
    from mmkdml.apis.prediction.inputs import SUFFIXES
    from mmkdml.apis.trained import split_words
    from mmkdml.datasets.channels import NUMPY_SUFFIX

    suffixes = (*SUFFIXES, NUMPY_SUFFIX)
    if args.run.endswith('.py') and args.images[0].lower().endswith(suffixes):
        parser.error(f'{args.run} is a config: add its checkpoint before {args.images[0]}')
    run, checkpoint, images = split_words([args.run, *args.images])
    folds = find_fold_runs(run, args.seed) if checkpoint is None else []
    if args.seed is not None and not folds:
        parser.error(f'--seed: expected a folder with the runs of all folds, got {run}')
    found = [
        load_run(one, checkpoint, args.cfg_options, use_config=args.use_config,
                 only_prediction=True)
        for one in folds or [run]
    ]  # fmt: skip
    if not images:
        parser.error(f'{args.images[0]} is used as the checkpoint: add images after it')
    read = ReadOptions(
        args.plane, tuple(args.window) if args.window else None, int(args.max_megapixels * 1e6)
    )
    predictors = [load(config, weights, args.device) for config, weights in found]
    predictor = FoldPredictor(predictors) if folds else predictors[0]
    table = predict_files(
        predictor,
        images,
        args.out,
        exclude=args.exclude,
        overlays=not args.no_overlays,
        force=args.force,
        members=args.members,
        augment=args.tta,
        read=read,
        score_threshold=args.score,
        segments=args.segments,
        batch_size=args.batch_size,
        progress=True,
    )
    print(f'{table.case.nunique()} cases predicted: {args.out}')


if __name__ == '__main__':
    run_tool(main)
