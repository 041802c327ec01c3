"""Data set of the slices of volumes."""

from __future__ import annotations

import logging
import os.path as osp
from collections.abc import Sequence
from typing import Any

from mmengine.logging import print_log
from mmseg.datasets import BaseSegDataset

from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.splits import SplitRow
from mmkdml.datasets.splits.manifest import read_manifest
from mmkdml.datasets.volumes.intensity import manifest_intensity
from mmkdml.datasets.volumes.store import Case, read_case
from mmkdml.datasets.volumes.transforms import NormalizeVolume
from mmkdml.registry import DATASETS

# Colors of the foreground classes, repeated if there are more.
_COLORS = ([255, 64, 64], [64, 160, 255], [96, 208, 96], [255, 176, 0], [176, 96, 224])


@DATASETS.register_module()
class VolumeSliceDataset(SplitFileMixin, BaseSegDataset):
    """Slices of volumes with labels of any number of classes, for mmseg.

    Classes are those of the manifest next to the split file. Load slices with
    :class:`~mmkdml.datasets.LoadVolumeSlice` and :class:`~mmkdml.datasets.LoadSliceLabel`.
    :class:`~mmkdml.datasets.NormalizeVolume` without ``channels`` gets those of the manifest. Each
    sample has the keys ``case`` (name), ``slice`` (number, from 0), ``slices`` (number of slices of
    the case), ``spacing`` (distances between slices, rows and columns in millimeters) and
    ``case_intensity`` in addition to those of the other data sets.

    Args:
        ann_file: Split file of the converter, relative to the working directory.
        data_root: The folder ``volumes`` that it wrote.
        metainfo: Default: classes and colors by the manifest.
        **kwargs: ``allow_outside`` (see :class:`SplitFileMixin`), and arguments of mmseg's
            ``BaseSegDataset`` (``pipeline``, ``indices``, ``test_mode``...). ``image_cache`` has no
            effect, because slices are memory-mapped.

    Raises:
        FileNotFoundError: If the split file or a volume does not exist.
        ValueError: If ``metainfo`` has other classes than the manifest, or a setting is invalid.
    """

    def __init__(
        self, *args: Any, ann_file: str, metainfo: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if kwargs.pop('image_cache', None) is not None:
            print_log(
                'VolumeSliceDataset: image_cache has no effect, because slices are memory-mapped',
                'current',
                logging.WARNING,
            )
        found = read_manifest(osp.dirname(ann_file)).get('classes')
        metainfo = dict(metainfo or {})
        if found and tuple(metainfo.setdefault('classes', tuple(found))) != tuple(found):
            raise ValueError(
                f'Invalid classes of metainfo: expected {tuple(found)}, as in the manifest of '
                f'{ann_file}, got {tuple(metainfo["classes"])}. Remove metainfo'
            )
        number = len(metainfo.get('classes', ()))
        colors = [list(_COLORS[index % len(_COLORS)]) for index in range(number - 1)]
        metainfo.setdefault('palette', [[0, 0, 0], *colors])
        self._cases: dict[str, Case] = {}
        super().__init__(*args, ann_file=ann_file, metainfo=metainfo, **kwargs)
        for step in self.pipeline.transforms:
            if isinstance(step, NormalizeVolume) and step.channels is None:
                step.channels = manifest_intensity(ann_file)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> None:
        """Keep labels as they are stored."""
        return

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return label, place in the volume, spacing and intensities of a slice.

        Raises:
            ValueError: If the split file has no slices of volumes.
        """
        name, separator, number = row.path.rpartition('.npy#')
        if not separator or not number.isdecimal() or row.mask is None:
            raise ValueError(
                f'{self.ann_file}: expected slices of volumes, such as CASE.npy#12, got '
                f'{row.path!r}. Convert the volumes (mmkdml convert nnunet)'
            )
        root = self.data_root or '.'
        case = self._cases.get(name) or self._cases.setdefault(name, read_case(root, name))
        return dict(
            seg_map_path=osp.join(root, row.mask),
            case=name,
            slice=int(number),
            slices=case.slices,
            spacing=tuple(case.spacing),
            case_intensity=case.intensity,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
        )
