"""Generate a small synthetic data set: slices in the layout of LGG, or cells with boxes."""

import argparse

from mmkdml.apis import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', metavar='OUT', help='output folder')
    parser.add_argument(
        '--cells',
        action='store_true',
        help='images of cells with boxes in COCO JSON, for detection, instead of brain-like slices',
    )
    parser.add_argument('--patients', type=int, default=24, help='default: %(default)s')
    parser.add_argument(
        '--slices',
        type=int,
        default=10,
        help='slices (or images of cells) per patient (default: %(default)s)',
    )
    parser.add_argument(
        '--size', type=int, help='height and width in pixels (default: 64, cells 96)'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    args = vars(parser.parse_args())

    from mmkdml.datasets.synthetic import make_demo_data
    from mmkdml.datasets.synthetic_cells import make_demo_cells

    cells, number = args.pop('cells'), args['patients'] * args['slices']
    size = args.pop('size') or (96 if cells else 64)
    if cells:
        make_demo_cells(images=args.pop('slices'), size=size, **args)
    else:
        make_demo_data(size=size, **args)
    kind = 'images of cells' if cells else 'slices'
    print(f'{number} {kind} of {args["patients"]} patients in {args["out"]}')


if __name__ == '__main__':
    run_tool(main)
