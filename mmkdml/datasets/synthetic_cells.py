"""Synthetic images of cells with boxes in COCO JSON, for demos and tests of detection.

They have no medical meaning. Red cells are pale discs with a light center, white cells are larger
and have a dark nucleus. Small specks have no box.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from mmkdml.datasets.coco_json import Box, BoxImage, coco_json
from mmkdml.files import write_atomically

CELLS = ('red cell', 'white cell')
_MAX_CELLS = 8
_EMPTY = 0.1  # share of images without cells
# Radius relative to the size of the image, by class, and share of the white cells.
_RADII, _WHITE = ((0.07, 0.11), (0.12, 0.17)), 0.3
# Closest centers of two cells, relative to the sum of their radii.
_CLOSEST = 0.75
_PLASMA, _RED, _CENTER = (0.90, 0.86, 0.84), (0.80, 0.52, 0.52), (0.87, 0.72, 0.71)
_CELL, _NUCLEUS, _SPECK = (0.78, 0.74, 0.86), (0.38, 0.25, 0.58), (0.55, 0.40, 0.62)


def make_demo_cells(
    out: str | Path, patients: int = 24, images: int = 10, size: int = 96, seed: int = 0
) -> Path:
    """Write ``images/<patient>_<number>.png`` and their boxes in ``annotations.json``.

    An image has 1 to 8 cells of two classes, which may overlap or be cut by the border; one in ten
    has none. Equal arguments give equal files; a patient does not depend on the number of patients.

    Args:
        out: Folder to write to: missing, empty, or with the files of the same call.
        patients: Number of patients, who differ in stain and brightness.
        images: Images per patient.
        size: Height and width in pixels, >= 48.
        seed: Integer >= 0.

    Returns:
        ``out``, a source folder for the converter of COCO JSON.

    Raises:
        ValueError: If a number is too small.
        FileExistsError: If ``out`` contains other files.
    """
    for name, value, least in (
        ('patients', patients, 1),
        ('images', images, 1),
        ('size', size, 48),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(f'expected {name} of at least {least}, got {value}')
    out = Path(out)
    names = [
        [f'images/patient{number:03d}_{index}.png' for index in range(1, images + 1)]
        for number in range(1, patients + 1)
    ]
    files = {out / name for own in names for name in own} | {out / 'annotations.json'}
    other = sorted(path for path in out.rglob('*') if path.is_file() and path not in files)
    if other:
        raise FileExistsError(
            f'{out} contains other files, such as {other[0]}. Choose an empty folder'
        )
    (out / 'images').mkdir(parents=True, exist_ok=True)
    found: list[BoxImage] = []
    for number, own in enumerate(names):
        rng = np.random.default_rng([seed, number])
        stain = rng.uniform(0.85, 1.1) * rng.uniform(0.92, 1.08, 3)
        for name in own:
            image, boxes = _draw(rng, size, stain)
            cv2.imwrite(str(out / name), image[..., ::-1])  # OpenCV takes BGR
            found.append(BoxImage(len(found) + 1, name, (size, size), boxes))
    write_atomically(out / 'annotations.json', coco_json(CELLS, found))
    return out


def _draw(
    rng: np.random.Generator, size: int, stain: np.ndarray
) -> tuple[np.ndarray, tuple[Box, ...]]:
    """Draw an image (S, S, 3), RGB, uint8, and return its boxes."""
    place = np.arange(size, dtype=np.float32) + 0.5  # centers of pixels
    x, y = np.meshgrid(place, place)
    image = np.tile(np.asarray(_PLASMA, np.float32), (size, size, 1))

    def paint(
        color: tuple[float, ...], cx: float, cy: float, rx: float, ry: float, alpha: float = 1
    ) -> None:
        """Paint an ellipse with a soft border of about a pixel."""
        distance = (1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry)
        where = alpha * np.clip(distance + 0.5, 0, 1)[..., None]
        image[:] += where * (np.asarray(color, np.float32) - image)

    for cx, cy in rng.uniform(0, size, (6, 2)):
        radius = rng.uniform(0.008, 0.02) * size
        paint(_SPECK, cx, cy, radius, radius, 0.8)
    boxes = []
    for label, cx, cy, rx, ry in _places(rng, size):
        shift = rng.uniform(-0.15, 0.15, 2)
        if label:
            paint(_CELL, cx, cy, rx, ry)
            for side in (-1, 1):  # lobes of the nucleus
                at = cx + (0.22 * side + shift[0]) * rx, cy + (0.18 * side + shift[1]) * ry
                paint(_NUCLEUS, *at, 0.5 * rx, 0.5 * ry)
        else:
            paint(_RED, cx, cy, rx, ry, 0.85)
            paint(_CENTER, cx + shift[0] * rx, cy + shift[1] * ry, 0.5 * rx, 0.5 * ry, 0.7)
        corners = np.clip([cx - rx, cy - ry, cx + rx, cy + ry], 0, size).round(2).tolist()
        boxes.append(Box(label, tuple(corners)))
    image *= stain.astype(np.float32) * (1 + 0.06 * _shade(rng, size))
    image += 0.02 * rng.standard_normal(image.shape).astype(np.float32)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8), tuple(boxes)


def _places(rng: np.random.Generator, size: int) -> list[tuple[int, float, float, float, float]]:
    """Choose class, center and radii of the cells of an image, in pixels."""
    count = 0 if rng.random() < _EMPTY else int(rng.integers(1, _MAX_CELLS + 1))
    cells: list[tuple[int, float, float, float, float]] = []
    for _ in range(20 * count):
        label = int(rng.random() < _WHITE)
        rx, ry = size * rng.uniform(*_RADII[label]) * rng.uniform(0.92, 1.08, 2)
        cx, cy = rng.uniform(0.5 * rx, size - 0.5 * rx), rng.uniform(0.5 * ry, size - 0.5 * ry)
        if all(np.hypot(cx - c[1], cy - c[2]) > _CLOSEST * (rx + c[3]) for c in cells):
            cells.append((label, cx, cy, rx, ry))
        if len(cells) == count:
            break
    return cells


def _shade(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return uneven illumination (S, S, 1) in [-1, 1]."""
    angle, place = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, size, dtype=np.float32)
    x, y = np.meshgrid(place, place)
    return ((np.cos(angle) * x + np.sin(angle) * y) / np.sqrt(2))[..., None]
