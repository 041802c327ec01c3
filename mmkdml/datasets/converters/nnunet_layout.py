"""Layouts of volumes: nnU-Net (version 2) and the Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkdml.datasets.converters.source_checks import Problems
from mmkdml.datasets.splits.split_row import check_inside
from mmkdml.datasets.volumes.store import IGNORED, LABEL

DESCRIPTION = 'dataset.json'
_ENDINGS = ('.nii.gz', '.nii')
_IGNORE = 'ignore'


@dataclass(frozen=True)
class VolumeSet:
    """Description of a set of volumes.

    Attributes:
        channels: Names of the channels.
        classes: Names of the classes, the background first.
        ignore: Label that is ignored, or None.
        cases: Paths of the images and the label of each case, relative to the source.
    """

    channels: list[str]
    classes: list[str]
    ignore: int | None
    cases: dict[str, tuple[list[str], str]]


def read_layout(source: Path, problems: Problems) -> VolumeSet:
    """Read ``dataset.json`` and find the files of its training cases.

    Args:
        source: Folder with ``dataset.json``.
        problems: List to which problems of single cases are appended.

    Raises:
        FileNotFoundError: If there is no ``dataset.json``.
        ValueError: If it is invalid or has no cases.
    """
    path = source / DESCRIPTION
    if not path.is_file():
        raise FileNotFoundError(
            f'No {DESCRIPTION} in {source}: expected a data set in the layout of nnU-Net or of the '
            'Medical Segmentation Decathlon'
        )
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: expected JSON, got {error}') from error
    if not isinstance(content, Mapping):
        raise ValueError(f'{path}: expected a JSON object, got {type(content).__name__}')
    if 'channel_names' in content:
        channels = _in_order(path, 'channel_names', content)
        classes, ignore = _labels(path, content.get('labels'))
        cases = _nnunet_cases(path, content, len(channels), problems)
    elif 'modality' in content:
        channels = _in_order(path, 'modality', content)
        by_index = _in_order(path, 'labels', content)
        classes, ignore = _labels(path, {name: index for index, name in enumerate(by_index)})
        if len(classes) < len(by_index):
            raise ValueError(f'{path}: labels: expected different names, got {by_index}')
        cases = _listed_cases(path, content.get('training'), problems)
    else:
        raise ValueError(
            f'{path}: expected the key channel_names (nnU-Net) or modality (Decathlon), got '
            f'{", ".join(map(str, content))}'
        )
    if not cases:
        problems.stop_if_any()
        raise ValueError(f'{path}: no training cases in {source}')
    _check_names(cases, problems)
    number = content.get('numTraining')
    if number is not None and number != len(cases):
        problems.add(f'{DESCRIPTION}: numTraining: expected {number} cases, got {len(cases)}')
    return VolumeSet(channels, classes, ignore, cases)


def _in_order(path: Path, key: str, content: Mapping[str, Any]) -> list[str]:
    """Return the names of a dict ``{"0": name, ...}``."""
    names = content.get(key)
    order = [str(index) for index in range(len(names))] if isinstance(names, Mapping) else []
    if not isinstance(names, Mapping) or not order or {*map(str, names)} != {*order}:
        raise ValueError(
            f'{path}: {key}: expected names by index, such as {{"0": "T1", "1": "T2"}}, got '
            f'{names!r}'
        )
    by_index = {str(index): str(name) for index, name in names.items()}
    return [by_index[index] for index in order]


def _labels(path: Path, labels: Any) -> tuple[list[str], int | None]:
    """Return the names of the classes, and the label that is ignored."""
    example = '{"background": 0, "tumor": 1}'
    if not isinstance(labels, Mapping) or not labels:
        raise ValueError(
            f'{path}: labels: expected labels by name, such as {example}, got {labels!r}'
        )
    if regions := [name for name, value in labels.items() if isinstance(value, list)]:
        raise ValueError(
            f'{path}: labels: expected one label per class, got the regions {", ".join(regions)}, '
            'which overlap. Region-based labels are not supported; name the labels of the files '
            f'instead, such as {example}'
        )
    ignore = labels.get(_IGNORE)
    numbers = {name: value for name, value in labels.items() if name != _IGNORE}
    expected = list(range(len(numbers) + (ignore is not None)))
    found = [*numbers.values(), *[ignore] * (ignore is not None)]
    valid = all(type(value) is int for value in found) and sorted(found) == expected
    if not valid or (ignore is not None and ignore != expected[-1]) or len(numbers) < 2:
        raise ValueError(
            f'{path}: labels: expected the background as 0, one or more classes as 1, 2, ... and '
            f'{_IGNORE}, if any, as the highest number, got {dict(labels)}'
        )
    if len(numbers) > IGNORED:
        raise ValueError(f'{path}: labels: expected at most {IGNORED}, got {len(numbers)}')
    return sorted(numbers, key=lambda name: numbers[name]), ignore


def _nnunet_cases(
    path: Path, content: Mapping[str, Any], channels: int, problems: Problems
) -> dict[str, tuple[list[str], str]]:
    ending = content.get('file_ending')
    if ending not in _ENDINGS:
        raise ValueError(
            f'{path}: file_ending: expected {" or ".join(_ENDINGS)}, got {ending!r}. Convert the '
            'files to NIfTI; 2-D images are converted by "mmkdml convert folders"'
        )
    if isinstance(listed := content.get('dataset'), Mapping):  # paths instead of folders
        entries = [dict(one, name=name) for name, one in listed.items() if isinstance(one, Mapping)]
        return _listed_cases(path, entries, problems, 'images')
    labels = _stems(path.parent / 'labelsTr', ending)
    found: dict[str, list[int]] = {}
    for stem in _stems(path.parent / 'imagesTr', ending):
        name, _, number = stem.rpartition('_')
        if not name or len(number) != 4 or not number.isdecimal():
            problems.add(f'imagesTr/{stem}{ending}: expected <case>_<channel of 4 digits>{ending}')
        elif int(number) >= channels:
            problems.add(
                f'imagesTr/{stem}{ending}: expected channels 0 to {channels - 1} of '
                f'channel_names, got {int(number)}'
            )
        else:
            found.setdefault(name, []).append(int(number))
    cases = {}
    for name in sorted({*labels, *found}):
        missing = sorted({*range(channels)} - {*found.get(name, [])})
        if name not in labels:
            problems.add(f'{name}: no label labelsTr/{name}{ending}')
        elif name not in found:
            problems.add(f'{name}: no image imagesTr/{name}_0000{ending} of the label')
        elif missing:
            lacking = ', '.join(f'{name}_{number:04d}{ending}' for number in missing)
            problems.add(f'{name}: missing channels in imagesTr: {lacking}')
        else:
            images = [f'imagesTr/{name}_{number:04d}{ending}' for number in range(channels)]
            cases[name] = images, f'labelsTr/{name}{ending}'
    return cases


def _stems(folder: Path, ending: str) -> list[str]:
    if not folder.is_dir():
        raise FileNotFoundError(f'No folder {folder}: expected the layout of nnU-Net')
    files = [one.name for one in folder.iterdir() if not one.name.startswith('.')]
    return sorted(name.removesuffix(ending) for name in files if name.endswith(ending))


def _listed_cases(
    path: Path, entries: Any, problems: Problems, key: str = 'image'
) -> dict[str, tuple[list[str], str]]:
    if not isinstance(entries, list):
        raise ValueError(f'{path}: training: expected a list of cases, got {entries!r}')
    cases: dict[str, tuple[list[str], str]] = {}
    for index, entry in enumerate(entries):
        images = entry.get(key) if isinstance(entry, Mapping) else None
        images = [images] if isinstance(images, str) else images
        files = [*(images or []), entry.get('label')] if isinstance(images, list) else []
        if not files or not all(isinstance(file, str) for file in files):
            problems.add(
                f'{DESCRIPTION}: case {index}: expected paths as {key} and label, got {entry!r}'
            )
            continue
        files = [file.removeprefix('./') for file in files]
        name = str(entry.get('name') or _without_ending(Path(files[-1]).name))
        try:
            for file in files:
                check_inside(file)
        except ValueError as error:
            problems.add(f'{DESCRIPTION}: case {index}: {error}')
            continue
        if name in cases:
            problems.add(f'{DESCRIPTION}: case {index}: duplicate case {name}')
        cases[name] = files[:-1], files[-1]
    return cases


def _check_names(cases: Mapping[str, Any], problems: Problems) -> None:
    """Add the cases whose names do not name stored files of their own."""
    files: dict[str, str] = {}
    for name in cases:
        if name.startswith('.') or not name.isprintable() or {'/', '\\'} & {*name}:
            problems.add(f'case {name!r}: expected the name of a file')
        for file in (name, f'{name}{LABEL}'):
            # Also those that are one file where the system does not distinguish capitals.
            other = files.setdefault(file.casefold(), name)
            if other != name:
                problems.add(
                    f'case {name}: {file} is also a stored file of case {other}. Rename it'
                )


def _without_ending(name: str) -> str:
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name
