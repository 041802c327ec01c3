"""Boxes of images, and COCO JSON files, which store them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmkdml.files import json_text

# Limit of a file; the annotations of COCO itself have 0.45 GB.
_MAX_BYTES = 2**31
# Decimals of a pixel in written files.
_DECIMALS = 4


class Box(NamedTuple):
    """A box of an image.

    Attributes:
        label: Index of the class.
        corners: (x1, y1, x2, y2) in pixels; the image is [0, width] x [0, height].
        ignored: Neither an object nor background, as ``iscrowd`` of COCO and ``difficult`` of VOC.
        where: Place in the annotations, for messages.
    """

    label: int
    corners: tuple[float, float, float, float]
    ignored: bool = False
    where: str = ''


class BoxImage(NamedTuple):
    """An image with its boxes.

    Attributes:
        id: Id in COCO JSON.
        path: File, relative to the data folder.
        size: Width and height as displayed; None if the annotations do not have it.
        boxes: The boxes; empty for an image without objects.
    """

    id: int
    path: str
    size: tuple[int, int] | None
    boxes: tuple[Box, ...]


def read_coco(
    path: str | Path, report: Callable[[str], None] | None = None
) -> tuple[tuple[str, ...], list[BoxImage]]:
    """Read the boxes of a COCO JSON file; segmentations and other keys are ignored.

    Args:
        path: The file.
        report: Function that is called with each problem of a category, image or annotation, which
            is then skipped. Default: the first one is an error.

    Returns:
        Names of the classes in the order of their ids, and the images in the order of the file. The
        corners are not checked to be inside of the image or in order.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not COCO JSON.
    """
    path = Path(path)
    content = _load(path)

    def stop(problem: str) -> None:
        raise ValueError(f'{path}: {problem}')

    report = report or stop
    categories = _by_id(content['categories'], 'category', _name, report)
    names = [categories[key] for key in sorted(categories)]
    for name in sorted({name for name in names if names.count(name) > 1}):
        report(f'duplicate category {name!r}')
    images = _by_id(content['images'], 'image', _file_and_size, report)
    first: dict[str, int] = {}
    for key, (file, _) in images.items():
        if first.setdefault(file, key) != key:
            report(f'image {key}: duplicate file_name {file!r}, also of image {first[file]}')
    labels = {key: label for label, key in enumerate(sorted(categories))}

    def box(entry: Mapping[str, Any]) -> tuple[int, Box]:
        image, category = entry.get('image_id'), entry.get('category_id')
        if type(image) is not int or image not in images:
            raise ValueError(f'expected the id of an image as image_id, got {image!r}')
        if type(category) is not int or category not in labels:
            raise ValueError(f'expected the id of a category as category_id, got {category!r}')
        x, y, width, height = _numbers(entry.get('bbox'))
        where = f'annotation {entry["id"]}'
        ignored = bool(entry.get('iscrowd') or entry.get('ignore'))
        return image, Box(labels[category], (x, y, x + width, y + height), ignored, where)

    boxes: dict[int, list[Box]] = {key: [] for key in images}
    for image, one in _by_id(content['annotations'], 'annotation', box, report).values():
        boxes[image].append(one)
    return tuple(names), [
        BoxImage(key, file, size, tuple(boxes[key])) for key, (file, size) in images.items()
    ]


def coco_json(classes: Sequence[str], images: Iterable[BoxImage]) -> bytes:
    """Format images with known sizes as COCO JSON, with category ids from 1."""
    images = list(images)
    annotations: list[dict[str, Any]] = []
    for image in images:
        for box in image.boxes:
            x1, y1, x2, y2 = box.corners
            bbox = [round(float(value), _DECIMALS) for value in (x1, y1, x2 - x1, y2 - y1)]
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image.id,
                    category_id=box.label + 1,
                    bbox=bbox,
                    area=round(bbox[2] * bbox[3], _DECIMALS),
                    iscrowd=int(box.ignored),
                )
            )
    content = dict(
        categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)],
        images=[
            dict(id=image.id, file_name=image.path, width=image.size[0], height=image.size[1])
            for image in images
            if image.size is not None
        ],
        annotations=annotations,
    )
    return (json_text(content) + '\n').encode()


def _load(path: Path) -> dict[str, list[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f'No COCO JSON file {path}')
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(
            f'{path}: expected at most {_MAX_BYTES / 2**30:g} GiB, got '
            f'{path.stat().st_size / 2**30:.1f}. Remove segmentations, or divide the data set'
        )
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: expected COCO JSON, got {error}') from error
    keys = ('images', 'annotations', 'categories')
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in keys):
        raise ValueError(f'{path}: expected COCO JSON with the lists {", ".join(keys)}')
    return content


def _by_id(
    entries: Sequence[Any], kind: str, parse: Callable[[Any], Any], report: Callable[[str], None]
) -> dict[int, Any]:
    """Return the parsed entries by id, and report invalid ones and duplicate ids."""
    parsed: dict[int, Any] = {}
    for place, entry in enumerate(entries):
        key = entry.get('id') if isinstance(entry, dict) else None
        if type(key) is not int:
            report(f'{kind} {place} of the list: expected an object with an integer id')
        elif key in parsed:
            report(f'{kind} {key}: duplicate id')
        else:
            try:
                parsed[key] = parse(entry)
            except ValueError as error:
                report(f'{kind} {key}: {error}')
    return parsed


def _name(entry: Mapping[str, Any]) -> str:
    name = entry.get('name')
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f'expected a name, got {name!r}')
    return name.strip()


def _file_and_size(entry: Mapping[str, Any]) -> tuple[str, tuple[int, int]]:
    file, size = entry.get('file_name'), (entry.get('width'), entry.get('height'))
    if not isinstance(file, str) or not file:
        raise ValueError(f'expected a path as file_name, got {file!r}')
    if not all(type(value) is int and value > 0 for value in size):
        raise ValueError(f'expected width and height of at least 1 pixel, got {size}')
    return file, size  # type: ignore[return-value]


def _numbers(bbox: Any) -> list[float]:
    if (
        not isinstance(bbox, list)
        or len(bbox) != 4
        or not all(type(value) in (int, float) and abs(value) < 2**31 for value in bbox)
    ):
        raise ValueError(f'expected four finite numbers as bbox, got {bbox!r}')
    return bbox
