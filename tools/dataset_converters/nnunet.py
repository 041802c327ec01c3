"""Store volumes (nnU-Net or Medical Segmentation Decathlon) as slices, and write split files."""

import argparse

from mmkdml.apis import run_converter, run_tool


def convert(**arguments):
    from mmkdml.datasets.converters import convert_nnunet

    return convert_nnunet(**arguments)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='The volumes are stored in DIR/volumes. Rerun the command to continue it.',
    )
    parser.add_argument(
        '--axis',
        type=int,
        choices=(0, 1, 2),
        help='axis of the files along which volumes are sliced; default: the one with the largest '
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
    parser.add_argument(
        '--splits-final',
        metavar='FILE',
        help="nnU-Net's splits_final.json, whose folds are used (default: that in SOURCE, if there "
        'is one and no --folds)',
    )
    run_converter(parser, convert, page='Volumes')


if __name__ == '__main__':
    run_tool(main)
