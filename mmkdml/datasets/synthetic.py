"""Synthetic brain-like slices in the layout of the LGG data set, for demos and tests.

They have no medical meaning. The channels are those of the real data: pre-contrast T1, FLAIR and
post-contrast T1. The lesion is bright in FLAIR, and so are fat around the skull, small spots and
rims of the ventricles, so that no threshold separates it.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np

_MIN_LESION = 0.002  # fraction of the slice; a smaller one would look like a spot
# Brightness of the tissues in pre-contrast, FLAIR and post-contrast.
_FAT = (0.80, 0.62, 0.80)
_BONE = (0.06, 0.05, 0.06)
_WHITE = (0.42, 0.34, 0.40)
_GREY = (0.33, 0.43, 0.34)
_FLUID = (0.14, 0.08, 0.13)


def make_demo_data(
    out: str | Path, patients: int = 24, slices: int = 10, size: int = 64, seed: int = 0
) -> Path:
    """Write a folder per patient with ``<slice>.tif`` and ``<slice>_mask.tif`` ({0, 255}).

    About half of the slices contain a lesion. Equal arguments give equal files; a patient does not
    depend on the number of patients.

    Args:
        out: Folder to write to: missing, empty, or with the files of the same call.
        patients: Number of patients.
        slices: Slices per patient, from the base of the brain to its top.
        size: Height and width in pixels, >= 32.
        seed: Integer >= 0.

    Returns:
        ``out``, a source folder for the LGG converter.

    Raises:
        ValueError: If a number is too small.
        FileExistsError: If ``out`` contains other files.
    """
    for name, value, least in (
        ('patients', patients, 1),
        ('slices', slices, 1),
        ('size', size, 32),
        ('seed', seed, 0),
    ):
        if value < least:
            raise ValueError(f'expected {name} of at least {least}, got {value}')
    out = Path(out)
    names = [f'TCGA_XX_{number:04d}_20000101' for number in range(1, patients + 1)]
    files = {
        out / name / f'{name}_{index}{kind}.tif'
        for name in names
        for index in range(1, slices + 1)
        for kind in ('', '_mask')
    }
    other = sorted(path for path in out.rglob('*') if path.is_file() and path not in files)
    if other:
        raise FileExistsError(
            f'{out} contains other files, such as {other[0]}. Choose an empty folder'
        )
    for number, name in enumerate(names):
        rng = np.random.default_rng([seed, number])
        patient = _draw_patient(rng, size)
        (out / name).mkdir(parents=True, exist_ok=True)
        for index in range(slices):
            image, mask = _draw_slice(patient, (index + 0.5) / slices, size, rng)
            stem = out / name / f'{name}_{index + 1}'
            cv2.imwrite(f'{stem}.tif', image[..., ::-1])  # OpenCV takes BGR
            cv2.imwrite(f'{stem}_mask.tif', mask)
    return out


def _smooth_noise(rng: np.random.Generator, size: int, width: float) -> np.ndarray:
    """Return noise of standard deviation 1 with blobs of size ``width``, relative to ``size``."""
    noise = rng.standard_normal((size, size)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), width * size, borderType=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std()


def _draw_patient(rng: np.random.Generator, size: int) -> SimpleNamespace:
    """Draw the properties of a patient's slices; lengths are relative to half the width."""
    angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 0.55)
    lesion = rng.uniform(0.14, 0.34)
    return SimpleNamespace(
        axes=(rng.uniform(0.64, 0.74), rng.uniform(0.80, 0.90)),
        tilt=rng.uniform(-0.15, 0.15),
        gain=rng.uniform(0.8, 1.15) * rng.uniform(0.9, 1.1, 3),
        gyri=_smooth_noise(rng, size, 0.02),
        ragged=_smooth_noise(rng, size, 0.045),
        bias=1 + 0.08 * _smooth_noise(rng, size, 0.3),
        ventricle=rng.uniform(0.8, 1.3),
        lesion_at=(0.7 * distance * np.cos(angle), 0.85 * distance * np.sin(angle)),
        lesion_size=(lesion, lesion * rng.uniform(0.65, 1.4)),
        lesion_height=rng.uniform(0.3, 0.7),
        lesion_depth=rng.uniform(0.18, 0.32),
        lesion_gain=np.array([-0.09, rng.uniform(0.26, 0.46), rng.uniform(-0.08, 0.06)]),
        # Angle, distance from the center (1 is the skull), radius, brightness of each channel.
        spots=np.column_stack(
            [
                rng.uniform(0, 2 * np.pi, 6),
                rng.uniform(0.45, 0.98, 6),
                rng.uniform(0.015, 0.05, 6),
                rng.uniform(-0.05, 0.4, (6, 3)),
            ]
        ),
    )


def _draw_slice(
    patient: SimpleNamespace, height: float, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a slice at a height from 0 (base) to 1 (top): RGB (S, S, 3) and mask (S, S), uint8."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    across, down = np.meshgrid(line, line)
    x = np.cos(patient.tilt) * across + np.sin(patient.tilt) * down
    y = np.cos(patient.tilt) * down - np.sin(patient.tilt) * across
    head = float(np.sqrt(1 - (0.15 + 0.6 * height) ** 2)) * 1.05
    width, length = (axis * head for axis in patient.axes)
    edge = 2.0 / size  # one pixel: width of soft borders

    def inside(field: np.ndarray, soft: float = edge) -> np.ndarray:
        """Return 0 where the field is negative and 1 where it is positive, with a soft border."""
        return 1 / (1 + np.exp(-np.clip(field / (0.6 * soft), -30, 30)))

    def ellipse(cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        """Return about the distance to the border of an ellipse, positive inside."""
        return (1 - np.hypot((x - cx) / rx, (y - cy) / ry)) * min(rx, ry)

    skull = ellipse(0, 0, width, length) + 0.006 * patient.ragged
    brain = skull - 0.11
    image = np.zeros((size, size, 3), np.float32)

    def paint(tissue: tuple[float, ...], where: np.ndarray) -> None:
        image[:] += where[..., None] * (np.asarray(tissue, np.float32) - image)

    paint(_FAT, inside(skull))
    paint(_BONE, inside(skull - 0.05))
    paint(_FLUID, inside(brain + 0.03))
    paint(_GREY, inside(brain))
    paint(_WHITE, inside(brain - 0.10 + 0.05 * patient.gyri, 2 * edge))
    # Furrows are the borders of the gyri near the surface.
    furrow = inside(0.18 - np.abs(patient.gyri), 0.15) * inside(0.14 - brain, 2 * edge)
    paint(_FLUID, 0.7 * furrow * inside(brain))
    midline = inside(0.012 - np.abs(x)) * inside(np.abs(y) - 0.35 * length)
    paint(_FLUID, 0.8 * midline * inside(brain))

    lesion = np.full((size, size), -1, np.float32)
    section = 1 - ((height - patient.lesion_height) / patient.lesion_depth) ** 2
    if section > 0:
        (cx, cy), (rx, ry) = patient.lesion_at, patient.lesion_size
        scale = np.sqrt(section)
        lesion = (
            ellipse(cx * head, cy * head, rx * scale, ry * scale)
            + 0.22 * scale * min(rx, ry) * patient.ragged
        )
        lesion = np.minimum(lesion, brain - 0.01)
        if (lesion > 0).mean() < _MIN_LESION:
            lesion[:] = -1
    mask = lesion > 0

    opening = patient.ventricle * max(0.0, 1 - abs(height - 0.4) / 0.45)
    ventricles = np.full((size, size), -1, np.float32)
    if opening > 0.1:
        for side in (-1, 1):
            for shift in (-1, 1):  # front and back horns
                bow = side * (0.07 + 0.05 * opening) * head
                ventricles = np.maximum(
                    ventricles,
                    ellipse(
                        bow * (1.0 if shift < 0 else 1.5),
                        shift * 0.14 * head,
                        0.05 * opening * head + 0.01,
                        0.19 * opening * head + 0.01,
                    ),
                )
        ventricles = np.minimum(ventricles, -lesion)  # a lesion displaces them
        image[..., 1] += 0.16 * inside(ventricles + 0.04) * inside(brain)  # rim, in FLAIR only
        paint(_FLUID, inside(ventricles))

    for angle, distance, radius, *brightness in patient.spots:
        spot = inside(
            ellipse(
                distance * (width - 0.05) * np.cos(angle + 3 * height),
                distance * (length - 0.05) * np.sin(angle + 3 * height),
                radius,
                radius * 1.3,
            )
        )
        image += spot[..., None] * np.asarray(brightness, np.float32)

    if mask.any():
        texture = 1 + 0.15 * patient.gyri
        image += (inside(lesion, 2 * edge) * texture)[..., None] * patient.lesion_gain

    image *= patient.gain * patient.bias[..., None]
    image += 0.025 * rng.standard_normal(image.shape).astype(np.float32)
    return (255 * np.clip(image, 0, 1)).astype(np.uint8), mask.astype(np.uint8) * 255
