"""Export a trained network or ensemble: python tools/export.py RUN --what ensemble --out DIR"""

from pathlib import Path

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Write a plain checkpoint, ONNX or torch.export file with a model card.', checkpoint=True
    )
    parser.add_argument(
        '--what', default='ensemble', help='name of a member, or ensemble (default: %(default)s)'
    )
    parser.add_argument(
        '--format',
        default='onnx',
        choices=('checkpoint', 'onnx', 'torch-export'),
        help='file format (default: %(default)s)',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output folder')
    parser.add_argument('--force', action='store_true', help='replace exported files')
    parser.add_argument(
        '--nms',
        action='store_true',
        help="write the boxes that are left after a detector's non-maximum suppression to ONNX, "
        'instead of those of all priors',
    )
    parser.add_argument('--int8', action='store_true', help='also write an int8 ONNX model')
    parser.add_argument(
        '--images',
        metavar='DIR',
        help='check the export on these images instead of the test set; quality is not measured',
    )
    parser.add_argument(
        '--check',
        type=int,
        default=50,
        metavar='N',
        help='number of images to check the export on (default: %(default)s)',
    )
    parser.add_argument('--intended-use', help='text for the model card')
    parser.add_argument('--licence', help='text for the model card')
    args = parser.parse_intermixed_args()
    if args.int8 and args.images:
        parser.error('--int8 is measured on the test set: remove --images')
    if args.check < 1:
        parser.error(f'--check must be at least 1, got {args.check}')

    from mmkdml.apis import export_run

    texts = dict(intended_use=args.intended_use, licence=args.licence)
    result = export_run(
        args.config,
        args.out,
        args.checkpoint,
        what=args.what,
        form=args.format,
        int8=args.int8,
        nms=args.nms,
        images=args.images,
        check=args.check,
        options=args.cfg_options,
        force=args.force,
        use_config=args.use_config,
        **{name: text for name, text in texts.items() if text is not None},
    )
    print(result.exported.agreement)
    if result.scores is not None:
        print(result.scores.to_string(index=False, float_format='%.2f', na_rep=''))
    for name, time in result.latency_ms.items():
        speed_up = result.card['speed_ups'].get(name)
        ratio = f', {speed_up:.2f} times as fast as the teacher in PyTorch' if speed_up else ''
        print(f'{name}: {time:.2f} ms per image{ratio}')
    if result.card['int8_speed']:
        print(result.card['int8_speed'])
    if args.format == 'checkpoint':
        packages = ' and '.join(result.exported.needs)
        print(f'Requires {packages}' if packages else 'Does not require mmkdml')
    print(f'Exported to {Path(args.out)}')


if __name__ == '__main__':
    run_tool(main)
