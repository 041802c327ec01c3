"""Check split files that were written or edited by hand, and record them as they are."""

import argparse

from mmkdml.apis import run_tool
from mmkdml.apis.cli.converters import summary
from mmkdml.datasets.splits import accept_splits


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', metavar='DIR', help='folder with train.csv, val.csv and test.csv')
    parser.add_argument(
        '--split-by',
        choices=['image'],
        help='accept groups (patients, lesions) that have images in several parts',
    )
    args = parser.parse_args()
    print(summary(accept_splits(args.folder, args.split_by)))


if __name__ == '__main__':
    run_tool(main)
