"""Write split files for the LGG MRI segmentation data set (kaggle_3m)."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_mask_option


def convert(**arguments):
    from mmkdml.datasets.converters import convert_lgg

    return convert_lgg(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--split-by',
        choices=['patient', 'image'],
        default='patient',
        help='keep the slices of a patient in one split, or not, which leaks test data (default: '
        '%(default)s)',
    )
    add_mask_option(parser)
    run_converter(
        parser, convert, 'configs/kdml/r50_r18x2_v3_lgg.py', 'data/lgg/kaggle_3m', 'data/lgg/splits'
    )


if __name__ == '__main__':
    run_tool(main)
