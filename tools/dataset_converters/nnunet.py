"""Store volumes in nnU-Net's or the Decathlon's layout as slices, and write their split files."""

import argparse

from mmkdml.apis import run_converter, run_tool


def convert(**arguments):
    from mmkdml.datasets.converters import convert_nnunet

    return convert_nnunet(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='The volumes are stored in DIR/volumes. If the command is stopped, it continues '
        'where it was.',
    )
    parser.add_argument(
        '--axis',
        type=int,
        choices=(0, 1, 2),
        help='axis of the files that volumes are cut along; default: the one with the largest '
        'spacing',
    )
    parser.add_argument(
        '--empty',
        default='keep',
        metavar='keep|drop|SHARE',
        help='training slices without foreground: keep all, drop all, or keep a share between 0 '
        'and 1 (default: %(default)s)',
    )
    parser.add_argument(
        '--group-regex',
        metavar='REGEX',
        help='regular expression for the group (a patient) in the name of a case: the part '
        '(?P<group>...), or the first one in parentheses; default: each case is a group',
    )
    run_converter(parser, convert, page='Volumes')


if __name__ == '__main__':
    run_tool(main)
