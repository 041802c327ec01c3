"""Write split files for PCam (Histopathologic Cancer Detection)."""

import argparse

from mmkdml.apis import run_converter, run_tool


def convert(**arguments):
    from mmkdml.datasets.converters import convert_pcam

    return convert_pcam(**arguments)


def number_or_all(text: str) -> int:
    """Parse a number, or 'all' as 0."""
    return 0 if text == 'all' else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--subset',
        type=number_or_all,
        default=20000,
        metavar='N|all',
        help='number of random images, half of each class (default: %(default)s)',
    )
    run_converter(
        parser,
        convert,
        'configs/kdml/r50_r18x2_v3_pcam.py',
        'data/pcam/histopathologic-cancer-detection',
        'data/pcam/splits',
    )


if __name__ == '__main__':
    run_tool(main)
