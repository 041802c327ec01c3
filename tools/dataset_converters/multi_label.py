"""Write split files for images with several classes each, which a table lists."""

import argparse

from mmkdml.apis import run_converter, run_tool


def convert(**arguments):
    from mmkdml.datasets.converters import convert_multi_label

    return convert_multi_label(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='The defaults are the columns of NIH ChestX-ray14: --table Data_Entry_2017.csv '
        '--test-list test_list.txt. Images can be in any subfolder of SOURCE.',
    )
    parser.add_argument(
        '--table', metavar='FILE', required=True, help='name of the table in SOURCE'
    )
    parser.add_argument(
        '--image',
        default='Image Index',
        metavar='COLUMN',
        help='column of the file name of the image (default: %(default)s)',
    )
    groups = parser.add_mutually_exclusive_group()
    groups.add_argument(
        '--group',
        default='Patient ID',
        metavar='COLUMN',
        help='column of the group (patient), which stays in one split (default: %(default)s)',
    )
    groups.add_argument(
        '--no-group',
        dest='group',
        action='store_const',
        const=None,
        help='each image is a group of its own',
    )
    parser.add_argument(
        '--labels',
        default='Finding Labels',
        metavar='COLUMN',
        help='column of the names of the classes, joined by --separator (default: %(default)s)',
    )
    parser.add_argument(
        '--separator',
        default='|',
        metavar='TEXT',
        help='text between the names in --labels (default: %(default)s)',
    )
    parser.add_argument(
        '--class-columns',
        nargs='+',
        metavar='COLUMN',
        help='columns of single classes with 0 and 1, instead of --labels',
    )
    parser.add_argument(
        '--uncertain',
        choices=['zeros', 'ones', 'drop'],
        help='treatment of -1 in --class-columns, as in CheXpert: absent, present, or leave the '
        'image out; default: an error',
    )
    parser.add_argument(
        '--no-class',
        default='No Finding',
        metavar='NAME',
        help='name of images without any class in --labels (default: %(default)s)',
    )
    parser.add_argument(
        '--test-list',
        metavar='FILE',
        help='file in SOURCE with the name of a test image per line; only the other images are '
        'divided',
    )
    run_converter(parser, convert)


if __name__ == '__main__':
    run_tool(main)
