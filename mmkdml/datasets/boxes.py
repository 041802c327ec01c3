"""Data sets of images with boxes, for mmdet, which this module imports."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Mapping
from typing import Any

from mmengine.logging import print_log

from mmkdml.commands import tool_command
from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.coco_json import BoxImage, read_coco
from mmkdml.datasets.splits import SplitRow
from mmkdml.datasets.splits.manifest import BOXES_FILE, manifest_folder
from mmkdml.optional import check_extra
from mmkdml.registry import DATASETS

check_extra('mmdet', extra='detection', purpose='data sets with boxes')
from mmdet.datasets import BaseDetDataset  # noqa: E402

# Boxes may leave the image by as many pixels, because of rounded numbers.
_ROUNDING = 0.1


@DATASETS.register_module()
class SplitBoxDataset(SplitFileMixin, BaseDetDataset):
    """Images of a split file with boxes of a COCO JSON file, for mmdet.

    A sample has ``img_id``, ``height``, ``width`` and ``instances``, in addition to ``id``,
    ``group`` and ``img_path``. Images without boxes are kept, as negatives. Boxes refer to the
    image as displayed, after EXIF rotation: load it with
    :class:`~mmkdml.datasets.LoadCheckedImage`. Its size must be that in the JSON file.

    Args:
        ann_file: Split file, relative to the working directory.
        data_root: Folder that the paths in it and in the JSON file are relative to.
        boxes_file: COCO JSON file with the boxes of all images in ``ann_file``, relative to the
            working directory. Default: ``annotations.json`` next to ``ann_file``, or
            to the folder of its fold.
        **kwargs: ``allow_outside`` and ``image_cache`` (see :class:`SplitFileMixin`), and arguments
            of mmdet's ``BaseDetDataset``: ``pipeline``, ``metainfo=dict(classes=(...))`` with the
            order of the classes (default: that of the JSON file), ``filter_cfg`` of training data
            with ``filter_empty_gt`` and ``min_size`` (smallest height and width)...

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If the JSON file is invalid, lacks an image of the split file, or has other
            classes than ``metainfo``.
    """

    converter = 'coco'

    def __init__(self, *args: Any, boxes_file: str | None = None, **kwargs: Any) -> None:
        self.boxes_file = boxes_file
        self._images: dict[str, BoxImage] = {}
        super().__init__(*args, **kwargs)

    @classmethod
    def annotation_files(cls, settings: Mapping[str, Any]) -> list[str]:
        """Extend the base class: add the file of boxes."""
        boxes_file = settings.get('boxes_file') or _default_boxes_file(settings['ann_file'])
        return [*super().annotation_files(settings), boxes_file]

    def load_data_list(self) -> list[dict[str, Any]]:
        """Extend the base class: read the boxes."""
        if self.boxes_file is None:
            self.boxes_file = _default_boxes_file(self.ann_file)
        if not osp.isfile(self.boxes_file):
            raise FileNotFoundError(
                f'No COCO JSON file {self.boxes_file} with the boxes of {self.ann_file}. Write it '
                f'with {tool_command("dataset_converters")}, or set boxes_file'
            )
        names, images = read_coco(self.boxes_file)
        classes = tuple(self._metainfo.setdefault('classes', names))
        if sorted(classes) != sorted(names):
            raise ValueError(
                f'Invalid classes of {type(self).__name__}: expected those of {self.boxes_file} in '
                f'any order, {names}, got {classes}. Set metainfo=dict(classes=(...))'
            )
        self._labels = [classes.index(name) for name in names]
        self._images = {image.path: image for image in images}
        try:
            samples = super().load_data_list()
        finally:
            self._images = {}  # workers would copy it
        found = {box['bbox_label'] for one in samples for box in one['instances']}
        missing = [name for index, name in enumerate(classes) if index not in found]
        if missing and not self.test_mode:
            print_log(
                f'{self.ann_file}: expected boxes of each class for training, got none of '
                f'{", ".join(missing)} in {self.boxes_file}',
                'current',
                logging.WARNING,
            )
        return samples

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return ``img_id``, ``height``, ``width`` and ``instances``.

        Raises:
            ValueError: If the image is not in the JSON file, or a box is empty or outside of it.
        """
        image = self._images.get(row.path)
        if image is None or image.size is None:
            raise ValueError(f'{self.boxes_file}: no image {row.path!r}, which {self.ann_file} has')
        width, height = image.size
        for box in image.boxes:
            x1, y1, x2, y2 = box.corners
            # The sum of a written position and width is rounded.
            if not (
                x1 < x2 and y1 < y2 and min(x1, y1) >= 0 and max(x2 - width, y2 - height) < 0.1
            ):
                raise ValueError(
                    f'{self.boxes_file}: invalid {box.where} of {row.path}: expected a box '
                    f'(x1, y1, x2, y2) with positive size in {width}x{height} pixels, got '
                    f'{box.corners}. Use {tool_command("dataset_converters/coco")}'
                )
        limits = width, height, width, height
        instances = [
            dict(
                bbox=[min(max(a, 0), b) for a, b in zip(box.corners, limits, strict=True)],
                bbox_label=self._labels[box.label],
                ignore_flag=int(box.ignored),
            )
            for box in image.boxes
        ]
        return dict(img_id=image.id, width=width, height=height, instances=instances)

    def filter_data(self) -> list[dict[str, Any]]:
        """Drop training images as ``filter_cfg`` of mmdet's ``CocoDataset`` does.

        Raises:
            ValueError: If ``filter_cfg`` has other keys, or drops all images.
        """
        config: Mapping[str, Any] = self.filter_cfg or {}
        if unknown := set(config) - {'filter_empty_gt', 'min_size'}:
            raise ValueError(
                f'Invalid filter_cfg: expected filter_empty_gt and min_size, got {sorted(unknown)}'
            )
        if self.test_mode or not config:
            return self.data_list
        kept = [
            sample
            for sample in self.data_list
            if min(sample['width'], sample['height']) >= config.get('min_size', 0)
            and (sample['instances'] or not config.get('filter_empty_gt', False))
        ]
        if not kept:
            raise ValueError(
                f'Invalid filter_cfg: expected to keep an image of {self.ann_file}, got none of '
                f'{len(self.data_list)} with {dict(config)}'
            )
        return kept

    def prepare_data(self, idx: int) -> Any:
        """Extend the base class: check the size of the loaded image.

        Raises:
            RuntimeError: If it differs from the JSON file, to which the boxes refer.
        """
        packed = super().prepare_data(idx)
        sample = packed.get('data_samples') if isinstance(packed, Mapping) else None
        info = self.get_data_info(idx)
        expected = info['height'], info['width']
        found = tuple(getattr(sample, 'ori_shape', expected))
        if found != expected:
            raise RuntimeError(
                f'{info["img_path"]}: expected {expected[1]}x{expected[0]} pixels after EXIF '
                f'rotation, the size in {self.boxes_file}, got {found[1]}x{found[0]}. The boxes '
                'belong to another image, or to its pixels before rotation'
            )
        return packed


def _default_boxes_file(ann_file: str) -> str:
    return osp.join(manifest_folder(osp.dirname(ann_file)), BOXES_FILE)


@DATASETS.register_module()
class BCCDDataset(SplitBoxDataset):
    """BCCD (github.com/Shenggan/BCCD_Dataset): microscopy of blood with boxes of cells."""

    METAINFO = dict(
        classes=('RBC', 'WBC', 'Platelets'), palette=[(220, 60, 60), (70, 110, 230), (240, 190, 40)]
    )
    converter = 'bccd'


@DATASETS.register_module()
class HAM10000BoxDataset(SplitBoxDataset):
    """HAM10000 (Tschandl et al. 2018): dermatoscopic images with boxes of lesions."""

    METAINFO = dict(classes=('lesion',), palette=[(255, 64, 64)])
    converter = 'ham10000 --task det'
