"""Check split files that were written or edited by hand, and accept them."""

import argparse

from mmkdml.apis import run_tool
from mmkdml.apis.cli.converters import print_warnings, summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        'folder',
        metavar='DIR',
        help='folder with train.csv, val.csv and test.csv, or with the folders of folds',
    )
    parser.add_argument(
        '--split-by',
        choices=['image'],
        help='allow groups (patients, lesions) with images in several parts',
    )
    args = parser.parse_args()

    from mmkdml.datasets.splits import accept_splits

    with print_warnings():
        splits = accept_splits(args.folder, args.split_by)
    print(summary(splits))


if __name__ == '__main__':
    run_tool(main)
