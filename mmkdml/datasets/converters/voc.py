"""Custom data with boxes in XML files of Pascal VOC, as labelImg writes them, such as BCCD."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mmkdml.datasets.coco_json import Box, BoxImage
from mmkdml.datasets.converters.box_checks import BoxSet, check_boxes, split_boxes, write_boxes
from mmkdml.datasets.converters.source_checks import (
    Problems,
    Splits,
    folder_inside,
    paths_by_id,
    source_folder,
)
from mmkdml.datasets.converters.source_files import find_files
from mmkdml.names import SPLITS

_CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
_MAX_BYTES = 2**24


def voc_boxes(
    source: str | Path,
    images: str = 'JPEGImages',
    annotations: str = 'Annotations',
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
) -> BoxSet:
    """Read and check images with boxes in an XML file each.

    Objects with ``difficult`` are ignored in training and evaluation. Paths in the files are not
    used.

    Args:
        source: Folder that contains both folders.
        images: Folder of images below ``source``, 8 bit; subfolders are searched.
        annotations: Folder of the XML files below ``source``, with the names of the images.
        classes: Names of the classes. Default: those in the files, sorted.
        one_based: Pixels are counted from 1, as in Pascal VOC itself; labelImg counts from 0.
        group_regex: See :func:`~mmkdml.datasets.class_folder_rows`.
        clip: See :func:`~mmkdml.datasets.converters.box_checks.check_boxes`, as ``drop``.
        drop: Kinds of boxes to drop.

    Raises:
        FileNotFoundError: If a folder does not exist.
        ValueError: If there are no images, a file is invalid, or images and XML files do not match.
            The message lists up to 10 problems.
    """
    source = source_folder(source, 'the folder with the folders of images and of XML files')
    problems = Problems(source)
    image_folder, xml_folder = (
        folder_inside(source, name, f'the folder of {kind}, relative to {source}')
        for kind, name in (('images', images), ('XML files', annotations))
    )
    image_files = find_files(image_folder, source)
    if not image_files:
        raise ValueError(f'no images in {image_folder}')
    image_paths = paths_by_id(image_files, problems, images)
    xml_paths = paths_by_id(find_files(xml_folder, source, ('.xml',)), problems, annotations)
    for name in sorted(image_paths.keys() - xml_paths.keys()):
        problems.add(f'{image_paths[name]}: no annotation {name}.xml in {annotations}')
    for name in sorted(xml_paths.keys() - image_paths.keys()):
        problems.add(f'{xml_paths[name]}: no image {name} in {images}')
    parsed = {}
    for name in sorted(image_paths.keys() & xml_paths.keys()):
        try:
            parsed[name] = _read_xml(source / xml_paths[name], Path(name).name, one_based)
        except ValueError as error:
            problems.add(f'{xml_paths[name]}: {error}')
    found = sorted({kind for _, objects in parsed.values() for kind, _ in objects})
    names = tuple(classes or found)
    for name, (_, objects) in parsed.items():
        for kind in sorted({kind for kind, _ in objects} - {*names}):
            problems.add(f'{xml_paths[name]}: unknown class {kind!r}, expected one of {names}')
    problems.stop_if_any()
    if not names:
        raise ValueError(f'expected an object in {xml_folder}, got none in {len(parsed)} files')
    sets = [
        BoxImage(
            number,
            image_paths[name],
            size,
            tuple(box._replace(label=names.index(kind)) for kind, box in objects),
        )
        for number, (name, (size, objects)) in enumerate(parsed.items(), 1)
    ]
    return check_boxes(problems, sets, names, group_regex, clip, drop, folder=images)


def convert_voc(
    source: str | Path,
    out: str | Path,
    images: str = 'JPEGImages',
    annotations: str = 'Annotations',
    classes: Sequence[str] | None = None,
    one_based: bool = False,
    group_regex: str | None = None,
    clip: bool = False,
    drop: Collection[str] = (),
    image_sets: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    dataset: str = 'voc',
    folds: int | None = None,
) -> Splits:
    """Write split files and ``annotations.json`` for boxes of Pascal VOC; see :func:`voc_boxes`.

    Args:
        source: Folder with all images and XML files.
        out: Folder for the split files.
        images: See :func:`voc_boxes`, as the following arguments.
        annotations: Folder of the XML files.
        classes: Names of the classes.
        one_based: Pixels are counted from 1.
        group_regex: Regular expression that finds the group in an image's path below ``source``.
        clip: Clip boxes to their images.
        drop: Kinds of boxes to drop.
        image_sets: Folder below ``source`` with ``train.txt``, ``val.txt`` and ``test.txt`` (some
            of them), such as ``ImageSets/Main``: names of the images of the published splits.
            Default: a random split by ``ratios``.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        dataset: Name of the data set in ``splits.json``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If a published split names unknown images, has no images, divides a group or is
            combined with ``folds``.
    """
    boxes = voc_boxes(source, images, annotations, classes, one_based, group_regex, clip, drop)
    info: dict[str, Any] = dict(dataset=dataset, group_regex=group_regex, image_sets=image_sets)
    listed = None
    if image_sets is None:
        info |= dict(seed=seed, ratios=[float(ratio) for ratio in ratios])
    else:
        listed = _listed(source_folder(Path(source, image_sets), 'the lists of splits'), boxes)
    splits = split_boxes(boxes, ratios, seed, listed, folds)
    write_boxes(out, splits, boxes, info, force)
    return splits


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses document types, whose entities can expand to any size or read files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError(f'expected XML without a document type, got <!DOCTYPE {name}>')


def _read_xml(
    path: Path, stem: str, one_based: bool
) -> tuple[tuple[int, int] | None, list[tuple[str, Box]]]:
    """Return the size of the image, and the class and box of each object."""
    if path.stat().st_size > _MAX_BYTES:
        raise ValueError(f'expected at most {_MAX_BYTES >> 20} MiB, got more')
    try:
        parser = ElementTree.XMLParser(target=_NoDoctype())
        root = ElementTree.fromstring(path.read_bytes(), parser)
    except ElementTree.ParseError as error:
        raise ValueError(f'expected XML, got {error}') from error
    if root.tag != 'annotation':
        raise ValueError(f'expected <annotation>, got <{root.tag}>')
    named = Path((root.findtext('filename') or stem).strip().replace('\\', '/')).name
    if stem not in (named, Path(named).stem):
        raise ValueError(f'its filename is of another image, {named!r}')
    size = None
    if root.find('size') is not None:
        width, height = (_number(root, f'size/{key}') for key in ('width', 'height'))
        size = int(width), int(height)
        size = size if any(size) else None  # some tools write 0
    objects = []
    for place, entry in enumerate(root.iter('object'), 1):
        name = (entry.findtext('name') or '').strip()
        if not name:
            raise ValueError(f'object {place}: expected a name, got none')
        x1, y1, x2, y2 = (_number(entry, f'bndbox/{key}', place) for key in _CORNERS)
        ignored = (entry.findtext('difficult') or '0').strip() not in ('0', 'false')
        corners = (x1 - one_based, y1 - one_based, x2, y2)
        where = f'object {place} ({name}) of {path.name}'
        objects.append((name, Box(0, corners, ignored, where)))
    return size, objects


def _number(entry: ElementTree.Element, key: str, place: int = 0) -> float:
    text = entry.findtext(key)
    try:
        value = float(text or '')
    except ValueError:
        value = math.nan
    if not abs(value) < 2**31:
        where = f'object {place}: ' if place else ''
        raise ValueError(f'{where}expected a finite number as {key}, got {text!r}')
    return value


def _listed(folder: Path, boxes: BoxSet) -> dict[str, set[str]]:
    """Return the paths of the images that the files of a folder list."""
    paths = {Path(image.path).stem: image.path for image in boxes.images}
    paths |= {Path(image.path).name: image.path for image in boxes.images}
    listed: dict[str, set[str]] = {}
    home: dict[str, str] = {}
    for split in SPLITS:
        file = folder / f'{split}.txt'
        if not file.is_file():
            continue
        listed[split] = set()
        for line, text in enumerate(file.read_text(encoding='utf-8-sig').splitlines(), 1):
            if not (name := text.strip()):
                continue
            if name not in paths:
                raise ValueError(f'{file}, line {line}: no image {name!r}')
            if home.setdefault(paths[name], split) != split:
                raise ValueError(f'{file}, line {line}: {name} is also in {home[paths[name]]}.txt')
            listed[split].add(paths[name])
    if not listed:
        raise ValueError(f'expected {", ".join(f"{name}.txt" for name in SPLITS)} in {folder}')
    return listed
