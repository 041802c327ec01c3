"""Predicts images: python tools/predict.py RUN IN [IN ...] --out DIR"""

import argparse

from mmkdml.apis import ReadOptions, load, load_config, predict_files, run_tool, split_run
from mmkdml.apis.cli.common import add_cfg_options
from mmkdml.apis.prediction.inputs import SUFFIXES
from mmkdml.apis.prediction.volumes import PLANES


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write what every member and the ensemble say of images.'
    )
    parser.add_argument(
        'run',
        metavar='RUN',
        help="a run's folder for its config and best checkpoint, or CONFIG CHECKPOINT",
    )
    parser.add_argument(
        'images',
        metavar='IN',
        nargs='+',
        help='images, TIFF stacks, NIfTI volumes, DICOM series, or folders of them',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='folder to write to')
    parser.add_argument(
        '--members', nargs='+', metavar='NAME', help='whose answers, such as ensemble (all)'
    )
    parser.add_argument('--exclude', metavar='PATTERN', help="files to leave out: '*_mask.*'")
    parser.add_argument('--batch-size', type=int, default=8, help='images at once (8)')
    parser.add_argument('--device', help='such as cpu or cuda:1 (a GPU if there is one)')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation')
    parser.add_argument('--no-overlays', action='store_true', help='draw none')
    parser.add_argument('--force', action='store_true', help='predict anew what is done')
    parser.add_argument(
        '--plane', choices=tuple(PLANES), default='axial', help='how NIfTI is cut (axial)'
    )
    parser.add_argument(
        '--window',
        nargs=2,
        type=float,
        metavar=('LOW', 'HIGH'),
        help='intensities of NIfTI and DICOM that become black and white',
    )
    parser.add_argument(
        '--max-megapixels', type=float, default=50, help='refuse larger images (50)'
    )
    add_cfg_options(parser)
    args = parser.parse_args()
    if args.run.endswith('.py') and args.images[0].lower().endswith(SUFFIXES):
        parser.error(f'{args.run} is a config: name its checkpoint before {args.images[0]}')
    file, checkpoint, images = split_run([args.run, *args.images])
    if not images:
        parser.error(f'{args.images[0]} is taken for the checkpoint: name images after it')
    read = ReadOptions(
        args.plane, tuple(args.window) if args.window else None, int(args.max_megapixels * 1e6)
    )
    predictor = load(load_config(file, args.cfg_options), checkpoint, args.device)
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
        batch_size=args.batch_size,
        progress=True,
    )
    print(f'{table.case.nunique()} cases predicted: {args.out}')


if __name__ == '__main__':
    run_tool(main)
