"""Write split files and boxes for custom data in COCO JSON."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_box_options


def convert(**arguments):
    from mmkdml.datasets.converters import convert_coco

    return convert_coco(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--annotations',
        nargs='+',
        required=True,
        metavar='FILE',
        help='JSON file in SOURCE, which is split at random; or two or three, for train, val, test',
    )
    parser.add_argument(
        '--images',
        nargs='+',
        default=['.'],
        metavar='DIR',
        help='folder of images in SOURCE, one for all files or one for each (default: SOURCE)',
    )
    add_box_options(parser)
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
