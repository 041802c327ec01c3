"""Write summary.html of a run again: python tools/summary.py RUN"""

import argparse

from mmkdml.apis import run_tool


def main() -> None:
    parser = argparse.ArgumentParser(
        description='Write summary.html, a page about a run, from the files in its folder. '
        'Training and testing write it, too; use this for runs of earlier versions.'
    )
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folder of a run')
    args = parser.parse_args()

    from mmkdml.apis import write_summary

    for run in args.runs:
        print(write_summary(run))


if __name__ == '__main__':
    run_tool(main)
