from pathlib import Path

import cv2
import numpy as np
from mmseg.datasets import BaseSegDataset
from mmseg.registry import DATASETS


@DATASETS.register_module()
class ShapesDataset(BaseSegDataset):
    """Disks and squares on a noisy background."""

    METAINFO = dict(
        classes=('background', 'disk', 'square'), palette=[[0, 0, 0], [255, 0, 0], [0, 0, 255]]
    )

    def __init__(self, **settings):
        super().__init__(img_suffix='.png', seg_map_suffix='.png', **settings)


def write_shapes(folder, images, seed, size=32):
    """Write images and masks, (size, size), to subfolders ``images`` and ``masks``."""
    generator = np.random.default_rng(seed)
    for name in ('images', 'masks'):
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    for index in range(images):
        mask = np.zeros((size, size), np.uint8)
        x, y = map(int, generator.integers(6, size // 2, 2))
        cv2.circle(mask, (x, y), 5, 1, -1)
        cv2.rectangle(mask, (x + 8, y + 2), (x + 15, y + 10), 2, -1)
        image = generator.normal(40 + 80 * mask[..., None], 15, (size, size, 3))
        for name, pixels in (('images', image.clip(0, 255).astype(np.uint8)), ('masks', mask)):
            cv2.imwrite(str(Path(folder, name, f'{seed}_{index}.png')), pixels)
