"""Writes split files for data of your own: class folders, or folders of images and masks."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_mask_option
from mmkdml.datasets.converters import convert_folders


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Without --images and --masks, each folder of SOURCE is a class.',
    )
    parser.add_argument('--images', metavar='DIR', help='folder of images in SOURCE')
    parser.add_argument('--masks', metavar='DIR', help='folder of binary masks in SOURCE')
    parser.add_argument(
        '--mask-suffix',
        default='',
        metavar='TEXT',
        help="what a mask's name has after its image's, e.g. _mask",
    )
    parser.add_argument(
        '--group-regex',
        metavar='REGEX',
        help="finds an image's group (a patient, say) in its path from SOURCE on: the part "
        'called (?P<group>...), or the first in parentheses. A group stays in one split',
    )
    add_mask_option(parser)
    run_converter(parser, convert_folders)


if __name__ == '__main__':
    run_tool(main)
