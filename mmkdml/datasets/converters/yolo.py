"""Custom data with boxes in text files of YOLO."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import yaml  # type: ignore[import-untyped]

from mmkdml.datasets.coco_json import Box, BoxImage
from mmkdml.datasets.converters.box_checks import BoxSet, check_boxes, split_boxes, write_boxes
from mmkdml.datasets.converters.source_checks import Problems, Splits, source_folder
from mmkdml.datasets.converters.source_files import find_files
from mmkdml.datasets.splits.split_row import check_inside
from mmkdml.functional.checks import check_choice
from mmkdml.names import SPLITS
from mmkdml.safe_yaml import SafeYamlLoader

_IMAGES, _LABELS = 'images', 'labels'
_OTHER_NAMES = dict(valid='val', validation='val')
_MAX_BYTES = 2**24


def yolo_boxes(
    source: str | Path,
    classes_file: str = 'data.yaml',
    missing_is_empty: bool = False,
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
) -> BoxSet:
    """Read and check images with a text file each: lines of class, center x, y, width and height.

    The numbers are fractions of the width and height of the image as displayed.

    Args:
        source: Folder with all images (8 bit). The file of ``images/a.jpg`` or
            ``train/images/a.jpg`` is ``labels/a.txt`` or ``train/labels/a.txt``; without a folder
            ``images`` in the path, ``a.txt`` next to the image. An empty file is a negative.
        classes_file: File below ``source`` with the names of the classes: ``names`` of a YAML file,
            or one name per line.
        missing_is_empty: Images without a text file are negatives. Default: they are problems.
        group_regex: See :func:`~mmkdml.datasets.class_folder_rows`.
        clip: See :func:`~mmkdml.datasets.converters.box_checks.check_boxes`, as ``drop``.
        drop: Kinds of boxes to drop.

    Raises:
        FileNotFoundError: If ``source`` is not a folder or has no ``classes_file``.
        ValueError: If there are no images, a file is invalid, or images and text files do not
            match. The message lists up to 10 problems.
    """
    source = source_folder(source, f'the folder with images, text files and {classes_file}')
    problems = Problems(source)
    classes = _classes(source, classes_file)
    image_files = find_files(source, source)
    if not image_files:
        raise ValueError(f'no images in {source}')
    texts = {*find_files(source, source, ('.txt',))}
    images, used = [], set()
    for number, path in enumerate(image_files, 1):
        text = _text_of(path)
        boxes: list[Box] = []
        if text in used:
            problems.add(f'{path}: differs from another image only in the suffix')
        elif text in texts:
            boxes = _read_text(source / text, text, len(classes), problems)
        elif not missing_is_empty:
            problems.add(f'{path}: no annotation {text}')
        used.add(text)
        images.append(BoxImage(number, path, None, tuple(boxes)))
    folders = {PurePosixPath(text).parent for text in used}
    for text in sorted(texts - used - {classes_file}):
        if PurePosixPath(text).parent in folders and Path(text).name != 'classes.txt':
            problems.add(f'{text}: no image')
    return check_boxes(problems, images, classes, group_regex, clip, drop, fractions=True)


def convert_yolo(
    source: str | Path,
    out: str | Path,
    classes_file: str = 'data.yaml',
    missing_is_empty: bool = False,
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
    split: str = 'random',
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write split files and ``annotations.json`` for boxes of YOLO; see :func:`yolo_boxes`.

    Args:
        source: Folder with all images.
        out: Folder for the split files.
        classes_file: See :func:`yolo_boxes`, as the following arguments.
        missing_is_empty: Images without a text file are negatives.
        group_regex: Regular expression that finds the group in an image's path below ``source``.
        clip: Clip boxes to their images.
        drop: Kinds of boxes to drop.
        split: ``'random'`` by ``ratios`` and ``seed``, or ``'folders'``: the split is the folder
            ``train``, ``val`` (or ``valid``) or ``test`` in the path of an image.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If ``split`` is invalid, no image is in such a folder, or the folders share a
            group or are combined with ``folds``.
    """
    check_choice('split', split, ('random', 'folders'))
    boxes = yolo_boxes(source, classes_file, missing_is_empty, group_regex, clip, drop)
    info: dict[str, Any] = dict(dataset='yolo', group_regex=group_regex, split=split)
    listed: dict[str, set[str]] | None = None
    if split == 'random':
        info |= dict(seed=seed, ratios=[float(ratio) for ratio in ratios])
    else:
        listed = {}
        for row in boxes.rows:
            for part in PurePosixPath(row.path).parts[:-1]:
                if (name := _OTHER_NAMES.get(part, part)) in SPLITS:
                    listed.setdefault(name, set()).add(row.path)
                    break
        if not listed:
            raise ValueError(f'expected images in folders {", ".join(SPLITS)} of {source}')
    splits = split_boxes(boxes, ratios, seed, listed, folds)
    write_boxes(out, splits, boxes, info, force)
    return splits


def _text_of(path: str) -> str:
    """Return the path of the text file of an image."""
    parts = list(PurePosixPath(path).with_suffix('.txt').parts)
    places = [place for place, part in enumerate(parts[:-1]) if part == _IMAGES]
    if places:
        parts[places[-1]] = _LABELS
    return '/'.join(parts)


def _classes(source: Path, name: str) -> tuple[str, ...]:
    """Return the names of the classes in order."""
    check_inside(name)
    path = source / name
    if not path.is_file():
        raise FileNotFoundError(
            f'No file {path} with the names of the classes. Name it (--classes-file)'
        )
    names: Any
    try:
        text = path.read_text(encoding='utf-8-sig')
        if path.suffix.lower() in ('.yaml', '.yml'):
            content = yaml.load(text, SafeYamlLoader)
            names = content.get('names') if isinstance(content, dict) else None
        else:
            names = [line.strip() for line in text.splitlines() if line.strip()]
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f'{path}: expected names of classes, got {error}') from error
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[key] for key in range(len(names))]
    valid = isinstance(names, list) and names and all(isinstance(one, str) for one in names)
    if not valid or len({*names}) < len(names):
        raise ValueError(f'{path}: expected names, a list of different names, got {names!r}')
    return tuple(names)


def _read_text(path: Path, name: str, classes: int, problems: Problems) -> list[Box]:
    boxes: list[Box] = []
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f'expected at most {_MAX_BYTES >> 20} MiB, got more')
        lines = path.read_text(encoding='utf-8-sig').splitlines()
    except ValueError as error:
        problems.add(f'{name}: {error}')
        return []
    for line, text in enumerate(lines, 1):
        if not text.strip():
            continue
        where = f'line {line} of {path.name}'
        try:
            boxes.append(_box(text.split(), classes)._replace(where=where))
        except ValueError as error:
            problems.add(f'{name}, line {line}: {error}')
    return boxes


def _box(words: Sequence[str], classes: int) -> Box:
    if len(words) != 5:
        raise ValueError(
            f'expected class, center x, center y, width and height, got {len(words)} words'
        )
    if not (words[0].isdecimal() and words[0].isascii() and int(words[0]) < classes):
        raise ValueError(f'unknown class {words[0]!r}, expected 0 to {classes - 1}')
    x, y, width, height = (float(word) for word in words[1:])
    if not all(abs(value) < 2**31 for value in (x, y, width, height)):
        raise ValueError(f'expected finite numbers, got {" ".join(words[1:])}')
    return Box(int(words[0]), (x - width / 2, y - height / 2, x + width / 2, y + height / 2))
