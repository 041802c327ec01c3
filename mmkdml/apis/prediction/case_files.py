"""Cases of several files, one per channel, named as in nnU-Net."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

NIFTI = ('.nii', '.nii.gz')
# Case, channel and suffix of a file.
_CHANNEL_FILE = re.compile(r'(.+)_([0-9]{4})(\.nii|\.nii\.gz)', re.IGNORECASE | re.DOTALL)


class ChannelFile(NamedTuple):
    """Parts of a file name ``CASE_0001.nii.gz``."""

    case: str
    channel: int
    suffix: str


def channel_file(name: str) -> ChannelFile | None:
    """Return the parts of the name of a channel's file; None for other names.

    >>> channel_file('LIVER_12_0001.nii.gz')
    ChannelFile(case='LIVER_12', channel=1, suffix='.nii.gz')
    >>> channel_file('LIVER_12.nii.gz') is None
    True
    """
    found = _CHANNEL_FILE.fullmatch(name)
    return ChannelFile(found[1], int(found[2]), found[3]) if found else None


def grouped_channels(files: Sequence[Path | None]) -> list[list[int]]:
    """Group files that are channels of one case: those in one folder that include channel 0.

    Args:
        files: Files; None for other inputs.

    Returns:
        Indices of the files of each case, by channel; a group of one for any other file.
    """
    groups: dict[Any, list[tuple[int, int]]] = {}
    for index, file in enumerate(files):
        name = channel_file(file.name) if file else None
        key = (file.parent, name.case) if file and name else index
        groups.setdefault(key, []).append((name.channel if name else 0, index))
    found = []
    for group in map(sorted, groups.values()):
        indices = [index for _, index in group]
        found += [indices] if group[0][0] == 0 else [[index] for index in indices]
    return found


def check_channels(files: Sequence[Path], channels: Sequence[int], allowed: Sequence[int]) -> None:
    """Check that a case has the channels of a network.

    Args:
        files: Files of the case, by channel.
        channels: Number of channels in each file.
        allowed: Numbers of channels that the network supports.

    Raises:
        ValueError: If channels are missing or unexpected; their files are named.
    """
    expected = f'{" or ".join(map(str, allowed))} channel{"s" * (tuple(allowed) != (1,))}'
    if len(files) == 1 and channels[0] > 1:
        if channels[0] not in allowed:
            raise ValueError(
                f'{files[0]}: expected {expected}, as the network, got {channels[0]} in the fourth '
                'dimension. Save each time point as a file'
            )
        return
    named = [channel_file(file.name) for file in files]
    numbers = [one.channel if one else index for index, one in enumerate(named)]
    number = next((one for one in sorted(allowed) if one >= len(files)), max(allowed))
    problems = []
    first = named[0]
    if first:
        names = [f'{first.case}_{one:04}{first.suffix}' for one in range(number)]
        missing = [name for one, name in enumerate(names) if one not in numbers]
        problems += [f'missing {", ".join(missing)}'] * bool(missing)
    extra = [
        file.name
        for index, (file, one) in enumerate(zip(files, numbers, strict=True))
        if one >= number or one in numbers[:index]
    ]
    problems += [f'unexpected {", ".join(extra)}'] * bool(extra)
    if problems or len(files) not in allowed:
        problems = problems or [f'got {len(files)}']
        raise ValueError(
            f'{files[0]}: expected {expected}, as the network, each in a file with one channel: '
            f'{"; ".join(problems)}'
        )
    several = [file.name for file, one in zip(files, channels, strict=True) if one > 1]
    if several:
        raise ValueError(f'{files[0]}: expected files with one channel each, got more in {several}')
