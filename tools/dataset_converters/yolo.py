"""Write split files and boxes for custom data in text files of YOLO."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_box_options


def convert(**arguments):
    from mmkdml.datasets.converters import convert_yolo

    return convert_yolo(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--classes-file',
        default='data.yaml',
        metavar='FILE',
        help='file in SOURCE with the names of the classes: names of a YAML file, or a name per '
        'line (default: %(default)s)',
    )
    parser.add_argument(
        '--missing-is-empty',
        action='store_true',
        help='images without a text file have no objects; default: they are an error',
    )
    parser.add_argument(
        '--split',
        choices=['random', 'folders'],
        default='random',
        help='split at random, or by the folders train, val and test (default: %(default)s)',
    )
    add_box_options(parser)
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
