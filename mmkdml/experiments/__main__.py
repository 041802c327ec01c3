"""``python -m mmkdml.experiments SPEC.json``: the process of one run of a suite."""

from mmkdml.apis import run_tool
from mmkdml.experiments.suites.execution.execute import main

if __name__ == '__main__':
    run_tool(main)
