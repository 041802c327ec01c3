"""Write split files and boxes of the connected components of masks."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_group_option, add_mask_option


def convert(**arguments):
    from mmkdml.datasets.converters import convert_mask_boxes

    return convert_mask_boxes(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--layout',
        choices=['folders', 'lgg'],
        default='folders',
        help='folders of images and masks, or LGG (default: %(default)s); for HAM10000 use its own '
        'converter with --task det',
    )
    parser.add_argument('--images', metavar='DIR', help='folder of images in SOURCE')
    parser.add_argument('--masks', metavar='DIR', help='folder of binary masks in SOURCE')
    parser.add_argument(
        '--mask-suffix',
        default='',
        metavar='TEXT',
        help='suffix of mask names after the name of the image, e.g. _mask',
    )
    add_group_option(parser)
    parser.add_argument('--name', help='name of the class (default: object or tumour, by layout)')
    parser.add_argument(
        '--min-area',
        type=int,
        default=16,
        metavar='PIXELS',
        help='smallest component (default: %(default)s)',
    )
    add_mask_option(parser)
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
