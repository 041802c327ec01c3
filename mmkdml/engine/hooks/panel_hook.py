"""Hook that draws panels of a test set of segmentation or detection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmcv
import numpy as np
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement

from mmkdml.datasets.channels import read_picture
from mmkdml.evaluation.boxes.samples import boxes_by_name, has_boxes, true_boxes_of
from mmkdml.evaluation.case_choice import choose_by_group
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.files import own_file
from mmkdml.functional.checks import check_fraction
from mmkdml.names import ENSEMBLE, IGNORED, PLAIN, SCORE_THRESHOLD, TRUTH
from mmkdml.registry import HOOKS

if TYPE_CHECKING:
    from mmkdml.evaluation.boxes.panels import BoxPanel
    from mmkdml.evaluation.mask_panels import Panel


@HOOKS.register_module()
class PanelHook(Hook):
    """Draw panels of test samples: ground truth, and masks or boxes of the members and ensemble.

    Groups (patients) are spread evenly over those with foreground in the ground truth, each with
    its largest region, or with most boxes; a group is repeated only if there are fewer than
    ``num``. Each sample is drawn in ``<out_dir>/<number>_<file>.png``, and all in
    ``<out_dir>/panels.png``. Samples without masks or boxes (classification) are skipped; if none
    is left, no file is written. With several processes, the main process draws samples of its own
    share.

    Args:
        out_dir: Output folder; relative paths are inside the runner's ``work_dir``.
        num: Maximum number of samples to draw, at least 1.
        score_threshold: Lowest score of the boxes that are drawn, in [0, 1].

    Raises:
        ValueError: If an argument is invalid; during the test, if a sample has no ``img_path``.
        FileNotFoundError: At the end of the test, if an image no longer exists.
    """

    priority = 'LOW'

    def __init__(
        self, out_dir: str = 'panels', num: int = 8, score_threshold: float = SCORE_THRESHOLD
    ) -> None:
        if type(num) is not int or num < 1:
            raise ValueError(f'Invalid num: expected an int of at least 1, got {num!r}')
        if not isinstance(out_dir, str | Path):
            raise ValueError(f'Invalid out_dir: expected the path of a folder, got {out_dir!r}')
        self.out_dir = out_dir
        check_fraction('score_threshold', score_threshold)
        self.num = num
        self.score_threshold = score_threshold
        self._reset()

    def _reset(self) -> None:
        # Size of the region, path and masks or boxes of the largest regions by group.
        self._kept: dict[str, list[tuple[int, str, Any]]] = {}
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
        """Store the masks or boxes of some samples with foreground."""
        for sample in outputs or ():
            region, content = self._content(sample)
            if not region:
                continue
            if 'img_path' not in sample:
                raise ValueError(
                    "Invalid data sample for PanelHook: expected the metainfo 'img_path', got "
                    f"{sorted(sample.metainfo_keys())}. Add it to meta_keys of the pipeline's Pack "
                    'transform'
                )
            group = str(sample.get('group') or sample.img_path)
            self._keep(group, (region, sample.img_path, content))

    def _content(self, sample: BaseDataElement) -> tuple[int, Any]:
        """Return the size of the true region, and masks, or true boxes, boxes and image size."""
        if has_boxes(sample):
            if 'gt_instances' not in sample:
                return 0, None
            truth = true_boxes_of(sample)
            boxes = {
                name: one.above(self.score_threshold) for name, one in boxes_by_name(sample).items()
            }
            return int((~truth.ignored).sum()), (truth, boxes, sample.ori_shape)
        masks = _masks(sample)
        return int(np.isin(masks.get(TRUTH, 0), (0, IGNORED), invert=True).sum()), masks

    def _keep(self, group: str, case: tuple[int, str, Any]) -> None:
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
        panels: list[Any] = []
        for number, index in enumerate(chosen, 1):
            _, img_path, content = pairs[index][1]
            panel = _panel(img_path, content)
            path = own_file(runner.work_dir, self.out_dir, f'{number:02d}_{panel.title}.png')
            _draw([panel._replace(title='')], path, classes)
            panels.append(panel)
        sheet = own_file(runner.work_dir, self.out_dir, 'panels.png')
        _draw(panels, sheet, classes)
        runner.logger.info(f'Saved {len(panels)} panels in {sheet.parent}')
        self._reset()


def _panel(img_path: str, content: Any) -> Panel | BoxPanel:
    from mmkdml.evaluation.boxes.panels import BoxPanel  # imports matplotlib
    from mmkdml.evaluation.mask_panels import Panel

    of_boxes = isinstance(content, tuple)
    height, width = content[2][:2] if of_boxes else content[TRUTH].shape
    image = mmcv.imresize(read_picture(img_path), (width, height))
    title = Path(img_path).stem
    if of_boxes:
        truth, boxes, _ = content
        return BoxPanel(image, boxes, truth, title)
    return Panel(image, content, title)


def _draw(panels: Sequence[Any], path: Path, classes: Sequence[str]) -> None:
    from mmkdml.evaluation.boxes.panels import BoxPanel, draw_box_sheet  # imports matplotlib
    from mmkdml.evaluation.mask_panels import draw_sheet

    draw = draw_box_sheet if isinstance(panels[0], BoxPanel) else draw_sheet
    draw(panels, path, classes)


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
