"""Makes a small data set of brain-like slices in the published layout of LGG."""

import argparse

from mmkdml.apis import run_tool
from mmkdml.datasets.synthetic import make_demo_data


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', metavar='OUT', help='folder to write to')
    parser.add_argument('--patients', type=int, default=24)
    parser.add_argument('--slices', type=int, default=10, help='of each patient (default 10)')
    parser.add_argument('--size', type=int, default=64, help='height and width (default 64)')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    make_demo_data(**vars(args))
    print(f'{args.patients * args.slices} slices of {args.patients} patients in {args.out}')


if __name__ == '__main__':
    run_tool(main)
