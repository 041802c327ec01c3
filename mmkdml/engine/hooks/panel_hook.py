"""Hook that draws panels of a segmentation test set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmkdml.datasets.channels import read_picture
from mmkdml.evaluation.case_choice import choose_by_group
from mmkdml.evaluation.mask_panels import IGNORED, TRUTH, Panel, draw_panel, draw_sheet
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.files import own_file
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw panels of test samples: image, ground truth, and masks of the members and the ensemble.

    Groups (patients) are spread evenly over those with foreground in the ground truth, each with
    its largest region; a group is repeated only if there are fewer than ``num``. Each sample is
    drawn in ``<out_dir>/<number>_<file>.png``, and all in ``<out_dir>/panels.png``. Samples without
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
        # Size of the region, path and masks of the largest regions by group.
        self._kept: dict[str, list[tuple[int, str, dict[str, np.ndarray]]]] = {}
        self._numbers: dict[str, int] = {}
        self._stride = 1

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
            region = np.isin(masks.get(TRUTH, 0), (0, IGNORED), invert=True).sum()
            if not region:
                continue
            if 'img_path' not in sample:
                raise ValueError(
                    "Invalid data sample for PanelHook: expected the metainfo 'img_path', got "
                    f"{sorted(sample.metainfo_keys())}. Add it to meta_keys of the pipeline's Pack "
                    'transform'
                )
            group = str(sample.get('group') or sample.img_path)
            self._keep(group, (int(region), sample.img_path, masks))

    def _keep(self, group: str, case: tuple[int, str, dict[str, np.ndarray]]) -> None:
        """Keep every stride-th group, and half of them when full: their number is unknown."""
        if self._numbers.setdefault(group, len(self._numbers)) % self._stride:
            return
        cases = self._kept.setdefault(group, [])
        cases.append(case)
        cases.sort(key=lambda one: -one[0])
        if len(self._kept) == 2 * self.num:
            self._kept, self._stride = dict(list(self._kept.items())[::2]), 2 * self._stride
        most = math.ceil(self.num / len(self._kept))
        for cases in self._kept.values():
            del cases[most:]

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Load the images of the stored samples and draw the panels."""
        if not self._kept:
            return
        names = list(self._kept)
        even = np.linspace(0, len(names) - 1, min(self.num, len(names))).round().astype(int)
        pairs = [(group, case) for group in np.array(names)[even] for case in self._kept[group]]
        chosen = choose_by_group([group for group, _ in pairs], self.num)
        classes = (runner.test_evaluator.dataset_meta or {}).get('classes') or ()
        panels = []
        for number, index in enumerate(chosen, 1):
            _, img_path, masks = pairs[index][1]
            height, width = masks[TRUTH].shape
            image = mmcv.imresize(read_picture(img_path), (width, height))
            name = Path(img_path).stem
            path = own_file(runner.work_dir, self.out_dir, f'{number:02d}_{name}.png')
            draw_panel(image, masks, path, classes)
            panels.append(Panel(image, masks, name))
        sheet = own_file(runner.work_dir, self.out_dir, 'panels.png')
        draw_sheet(panels, sheet, classes)
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
