"""Hook that draws panels of a segmentation test set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmkdml.datasets.images import read_image
from mmkdml.evaluation.mask_panels import IGNORED, TRUTH, Panel, draw_panel, draw_sheet
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.files import own_file
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw panels of test samples: image, ground truth, and masks of the members and the ensemble.

    Samples are spread evenly over those with foreground in the ground truth. Each is drawn in
    ``<out_dir>/<number>_<file>.png``, and all of them in ``<out_dir>/panels.png``. Samples without
    masks (classification) are skipped; if none is left, no file is written. With several processes,
    the main process draws samples of its own share.

    Args:
        out_dir: Output folder; relative paths are inside the runner's ``work_dir``.
        num: Maximum number of samples to draw, at least 1.

    Raises:
        ValueError: If an argument is invalid; during the test, if a sample has no ``img_path``.
        FileNotFoundError: At the end of the test, if an image no longer exists.
    """

    priority = 'LOW'

    def __init__(self, out_dir: str = 'panels', num: int = 8) -> None:
        if type(num) is not int or num < 1:
            raise ValueError(f'Invalid num: expected an int of at least 1, got {num!r}')
        if not isinstance(out_dir, str | Path):
            raise ValueError(f'Invalid out_dir: expected the path of a folder, got {out_dir!r}')
        self.out_dir = out_dir
        self.num = num
        self._reset()

    def _reset(self) -> None:
        self._kept: list[tuple[str, dict[str, np.ndarray]]] = []
        self._seen, self._stride = 0, 1

    def before_test_epoch(self, runner: Runner) -> None:
        """Discard the samples of an earlier test."""
        self._reset()

    @master_only
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Store the masks of some samples with foreground."""
        for sample in outputs or ():
            masks = _masks(sample)
            if not np.isin(masks.get(TRUTH, 0), (0, IGNORED), invert=True).any():
                continue
            if 'img_path' not in sample:
                raise ValueError(
                    "Invalid data sample for PanelHook: expected the metainfo 'img_path', got "
                    f"{sorted(sample.metainfo_keys())}. Add it to meta_keys of the pipeline's Pack "
                    'transform'
                )
            # The number of samples is unknown: keep every stride-th, and half of them when full.
            if self._seen % self._stride == 0:
                self._kept.append((sample.img_path, masks))
                if len(self._kept) == 2 * self.num:
                    self._kept, self._stride = self._kept[::2], 2 * self._stride
            self._seen += 1

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Load the images of the stored samples and draw the panels."""
        if not self._kept:
            return
        last, panels = len(self._kept) - 1, []
        chosen = np.linspace(0, last, min(self.num, last + 1)).round().astype(int)
        for number, index in enumerate(chosen, 1):
            img_path, masks = self._kept[index]
            height, width = masks[TRUTH].shape
            image = mmcv.imresize(read_image(img_path), (width, height))
            name = Path(img_path).stem
            path = own_file(runner.work_dir, self.out_dir, f'{number:02d}_{name}.png')
            draw_panel(image, masks, path)
            panels.append(Panel(image, masks, name))
        sheet = own_file(runner.work_dir, self.out_dir, 'panels.png')
        draw_sheet(panels, sheet)
        runner.logger.info(f'Saved {len(panels)} panels in {sheet.parent}')
        self._reset()


def _masks(sample: BaseDataElement) -> dict[str, np.ndarray]:
    """Return a sample's masks in column order; empty without ground truth or predictions."""
    if 'gt_sem_seg' not in sample or 'pred_sem_seg' not in sample:
        return {}
    members = members_in_order(sample.members) if 'members' in sample else {}
    elements = {name: member.pred_sem_seg for name, member in members.items()}
    elements[ENSEMBLE if members else PLAIN] = sample.pred_sem_seg
    elements = {TRUTH: sample.gt_sem_seg, **elements}
    return {
        name: element.data.squeeze(0).to('cpu').numpy().astype(np.uint8)
        for name, element in elements.items()
    }
