"""Settings of a suite's runs, each stored once: one complete config, and the lines that differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import unified_diff

from mmkdml.modes import MODES
from mmkdml.statistics.records import DONE, RunRecord


@dataclass(frozen=True)
class Settings:
    """Settings of all finished runs.

    Attributes:
        reference: Run whose config is complete.
        text: Its config.
        differences: Lines of each other run's config that differ, as a unified diff without
            context, by name and seed.
    """

    reference: RunRecord
    text: str
    differences: dict[tuple[str, int], str]


def collect_settings(runs: Sequence[RunRecord], first_seeds: bool = False) -> Settings | None:
    """Compare the configs of all finished runs with that of the first variant.

    Args:
        runs: Runs of a suite.
        first_seeds: Only compare the first finished seed of each run.
    """
    done = [run for run in runs if run.state == DONE]
    if not done:
        return None
    reference = next((run for run in done if run.mode in MODES), done[0])
    text = reference.metadata['config_text']
    differences = {}
    compared = list({run.name: run for run in reversed(done)}.values()) if first_seeds else done
    for run in compared:
        lines = unified_diff(
            text.splitlines(), run.metadata['config_text'].splitlines(), n=0, lineterm=''
        )
        # The first two lines name files.
        differences[run.name, run.seed] = '\n'.join(list(lines)[2:])
    return Settings(reference, text, differences)
