"""Predicts images: python tools/predict.py CONFIG CHECKPOINT IN --out DIR"""

from mmkdml.apis import config_parser, load_config, run_tool
from mmkdml.apis.image_sources import ReadOptions
from mmkdml.apis.medical_images import PLANES
from mmkdml.apis.prediction import load
from mmkdml.apis.prediction_files import predict_files


def main() -> None:
    parser = config_parser('Write what every member and the ensemble say of images.')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file, or the folder of a run for its best checkpoint',
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
    parser.add_argument('--no-overlays', action='store_true', help='draw none, which is faster')
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
    args = parser.parse_args()
    predictor = load(load_config(args.config, args.cfg_options), args.checkpoint, args.device)
    table = predict_files(
        predictor,
        args.images,
        args.out,
        exclude=args.exclude,
        overlays=not args.no_overlays,
        force=args.force,
        members=args.members,
        augment=args.tta,
        read=ReadOptions(
            args.plane, tuple(args.window) if args.window else None, int(args.max_megapixels * 1e6)
        ),
        batch_size=args.batch_size,
        progress=True,
    )
    print(f'{table.case.nunique()} cases predicted: {args.out}')


if __name__ == '__main__':
    run_tool(main)
