"""Write split files and boxes for BCCD: red and white blood cells, platelets."""

import argparse

from mmkdml.apis import run_converter, run_tool


def convert(**arguments):
    from mmkdml.datasets.converters import convert_bccd

    return convert_bccd(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--split',
        choices=['published', 'random'],
        default='published',
        help='lists of images in ImageSets/Main, or a random split by --ratios and --seed '
        '(default: %(default)s)',
    )
    run_converter(
        parser, convert, 'configs/kdml/r50_r18x2_v1_bccd.py', 'data/bccd/BCCD', 'data/bccd/splits'
    )


if __name__ == '__main__':
    run_tool(main)
