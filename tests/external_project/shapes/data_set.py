import json
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

    def __init__(self, img_suffix='.png', **settings):
        super().__init__(img_suffix=img_suffix, seg_map_suffix='.png', **settings)


def write_shapes(folder, images, seed, size=32):
    """Write images, (size, size), their masks, arrays with four channels, and labels."""
    generator = np.random.default_rng(seed)
    for name in ('images', 'masks', 'sequences'):
        Path(folder, name).mkdir(parents=True, exist_ok=True)
    labels = []
    for index in range(images):
        mask = np.zeros((size, size), np.uint8)
        x, y = map(int, generator.integers(6, size // 2, 2))
        found = [label for label in (0, 1) if (index >> label) % 2 == 0]
        if 0 in found:
            cv2.circle(mask, (x, y), 5, 1, -1)
        if 1 in found:
            cv2.rectangle(mask, (x + 8, y + 2), (x + 15, y + 10), 2, -1)
        image = generator.normal(40 + 80 * mask[..., None], 15, (size, size, 4)).clip(0, 255)
        stem = f'{seed}_{index}'
        cv2.imwrite(str(Path(folder, 'images', f'{stem}.png')), image[..., :3].astype(np.uint8))
        cv2.imwrite(str(Path(folder, 'masks', f'{stem}.png')), mask)
        np.save(Path(folder, 'sequences', f'{stem}.npy'), image.astype(np.float32))
        labels.append(dict(img_path=f'images/{stem}.png', gt_label=found))
    content = dict(metainfo=dict(classes=('disk', 'square')), data_list=labels)
    Path(folder, 'labels.json').write_text(json.dumps(content))
