"""Generate a small synthetic data set of brain-like slices in the layout of LGG."""

import argparse

from mmkdml.apis import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', metavar='OUT', help='output folder')
    parser.add_argument('--patients', type=int, default=24, help='default: %(default)s')
    parser.add_argument(
        '--slices', type=int, default=10, help='slices per patient (default: %(default)s)'
    )
    parser.add_argument(
        '--size', type=int, default=64, help='height and width in pixels (default: %(default)s)'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: %(default)s)')
    args = parser.parse_args()

    from mmkdml.datasets.synthetic import make_demo_data

    make_demo_data(**vars(args))
    print(f'{args.patients * args.slices} slices of {args.patients} patients in {args.out}')


if __name__ == '__main__':
    run_tool(main)
