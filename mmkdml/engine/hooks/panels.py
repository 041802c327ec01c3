"""Panels of a segmentation test set."""

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
    """Draws panels of a test: image, truth, each member's mask and the ensemble's.

    The samples are spread evenly over those with foreground in the truth. Each becomes
    ``<out_dir>/<number>_<file>.png``, all of them together ``<out_dir>/panels.png``. Samples
    without masks (classification) are passed over, and nothing is written if no sample is left.
    With several processes, the main one draws from its own share.

    Args:
        out_dir: a folder, in the runner's ``work_dir`` unless absolute.
        num: number of samples to draw.

    Raises:
        ValueError: if ``num`` is below 1 or ``out_dir`` no name; while testing, if a sample has no
            ``img_path``.
        FileNotFoundError: at the end of the test, if an image is gone.
    """

    priority = 'LOW'

    def __init__(self, out_dir: str = 'panels', num: int = 8) -> None:
        if type(num) is not int or num < 1:
            raise ValueError(f'num must be at least 1, but got {num!r}; expected a whole number')
        if not isinstance(out_dir, str | Path):
            raise ValueError(f'out_dir must be the name of a folder, but got {out_dir!r}')
        self.out_dir = out_dir
        self.num = num
        self._reset()

    def _reset(self) -> None:
        self._kept: list[tuple[str, dict[str, np.ndarray]]] = []
        self._seen, self._stride = 0, 1

    def before_test_epoch(self, runner: Runner) -> None:
        """Forgets the samples of an earlier test."""
        self._reset()

    @master_only
    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Sequence[BaseDataElement] | None = None,
    ) -> None:
        """Keeps the masks of some samples with foreground.

        Args:
            runner: the runner.
            batch_idx: not used.
            data_batch: not used.
            outputs: the data samples of the batch.
        """
        for sample in outputs or ():
            masks = _masks(sample)
            if not np.isin(masks.get(TRUTH, 0), (0, IGNORED), invert=True).any():
                continue
            if 'img_path' not in sample:
                raise ValueError(
                    "PanelHook reads the image from the metainfo 'img_path', but the sample has "
                    f"{sorted(sample.metainfo_keys())}: add it to meta_keys of the pipeline's "
                    'Pack transform'
                )
            # How many will come is not known: keep each stride-th, and thin out when full.
            if self._seen % self._stride == 0:
                self._kept.append((sample.img_path, masks))
                if len(self._kept) == 2 * self.num:
                    self._kept, self._stride = self._kept[::2], 2 * self._stride
            self._seen += 1

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Reads the images of the kept samples and draws.

        Args:
            runner: the runner.
            metrics: not used.
        """
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
        runner.logger.info(f'{len(panels)} panels drawn in {sheet.parent}')
        self._reset()


def _masks(sample: BaseDataElement) -> dict[str, np.ndarray]:
    """The masks of a sample in the order of the columns; empty if it has no truth or no masks."""
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
