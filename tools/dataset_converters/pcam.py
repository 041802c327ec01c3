"""Writes split files for PCam (Histopathologic Cancer Detection)."""

import argparse

from mmkdml.apis import run_converter, run_tool
from mmkdml.datasets.converters import convert_pcam


def number_or_all(text: str) -> int:
    """'all' is 0."""
    return 0 if text == 'all' else int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        '--subset',
        type=number_or_all,
        default=20000,
        metavar='N|all',
        help='images to choose at random, half of each class (default 20000)',
    )
    run_converter(
        parser,
        convert_pcam,
        'configs/kdml/r50_r18x2_v3_pcam.py',
        'data/pcam/histopathologic-cancer-detection',
        'data/pcam/splits',
    )


if __name__ == '__main__':
    run_tool(main)
