"""Write split files and boxes for custom data in XML files of Pascal VOC."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_box_options


def convert(**arguments):
    from mmkdml.datasets.converters import convert_voc

    return convert_voc(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--images',
        default='JPEGImages',
        metavar='DIR',
        help='folder of images in SOURCE (default: %(default)s)',
    )
    parser.add_argument(
        '--annotations',
        default='Annotations',
        metavar='DIR',
        help='folder of XML files in SOURCE (default: %(default)s)',
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='default: those in the files, sorted'
    )
    parser.add_argument(
        '--one-based',
        action='store_true',
        help='pixels are counted from 1, as in Pascal VOC itself, but not by labelImg',
    )
    parser.add_argument(
        '--image-sets',
        metavar='DIR',
        help='folder in SOURCE with train.txt, val.txt and test.txt, such as ImageSets/Main; '
        'default: a random split',
    )
    add_box_options(parser)
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
