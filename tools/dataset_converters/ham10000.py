"""Write split files for HAM10000: seven diagnoses, or lesion masks."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_mask_option


def convert(**arguments):
    from mmkdml.datasets.converters import convert_ham10000

    return convert_ham10000(**arguments)


def samples(text: str) -> int | str:
    """Parse a number, 'mean' or 'none'."""
    return int(text) if text.isdecimal() else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--task',
        choices=['cls', 'seg'],
        required=True,
        help='classify the diagnosis, or segment the lesion',
    )
    parser.add_argument(
        '--split-by',
        choices=['lesion', 'image'],
        default='lesion',
        help='keep the images of a lesion in one split, or not, which leaks test data (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--balance',
        type=samples,
        metavar='N|mean|none',
        help='samples per diagnosis in a training epoch, by dropping and repeating images '
        '(default: mean, the mean over the diagnoses, for cls; none for seg)',
    )
    add_mask_option(parser)
    run_converter(
        parser,
        convert,
        'configs/kdml/r50_r18x2_v3_ham10000_{task}.py',
        'data/ham10000/published',
        'data/ham10000/splits_{task}',
    )


if __name__ == '__main__':
    run_tool(main)
