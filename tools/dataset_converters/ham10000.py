"""Write split files for HAM10000: seven diagnoses, lesion masks, or boxes of lesions."""

import argparse
import sys

from mmkdml.apis import run_converter, run_tool
from mmkdml.apis.cli.converters import add_mask_option


def convert(task, split_by, balance, **arguments):
    from mmkdml.datasets.converters import convert_ham10000, convert_mask_boxes

    if task != 'det':
        return convert_ham10000(task=task, split_by=split_by, balance=balance, **arguments)
    if split_by == 'image' or balance is not None:
        sys.exit('ham10000: error: --split-by image and --balance need --task cls or seg')
    return convert_mask_boxes(layout='ham10000', **arguments)


def samples(text: str) -> int | str:
    """Parse a number, 'mean' or 'none'."""
    return int(text) if text.isdecimal() else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--task',
        choices=['cls', 'seg', 'det'],
        required=True,
        help='classify the diagnosis, segment the lesion, or detect it (boxes of the parts of its '
        'mask)',
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
