"""Write split files for custom data: class folders, or folders of images and masks."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_group_option, add_mask_option


def convert(**arguments):
    from mmkdml.datasets.converters import convert_folders

    return convert_folders(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Without --images and --masks, each subfolder of SOURCE is a class.',
    )
    parser.add_argument('--images', metavar='DIR', help='folder of images in SOURCE')
    parser.add_argument('--masks', metavar='DIR', help='folder of masks in SOURCE')
    parser.add_argument(
        '--mask-suffix',
        default='',
        metavar='TEXT',
        help='suffix of mask names after the name of the image, e.g. _mask',
    )
    parser.add_argument(
        '--classes',
        metavar='FILE',
        help='table in SOURCE of the classes of masks, the background first: CSV with the columns '
        'name,value or name,r,g,b, or JSON; default: binary masks',
    )
    parser.add_argument(
        '--ignore',
        nargs='+',
        default=(),
        metavar='VALUE',
        help='values of ignored pixels in masks with --classes, such as 255, or 255,255,255 for '
        'colors',
    )
    add_group_option(parser)
    parser.add_argument(
        '--channels',
        type=int,
        metavar='N',
        help='number of channels of all images (NumPy files, TIFF with a channel per page, images '
        'with alpha), for the transform LoadMultiChannelImage; default: gray or RGB images',
    )
    add_mask_option(parser)
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
