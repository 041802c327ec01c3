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
from mmkdml.datasets.splits.manifest import INFO_FILE, read_manifest
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
            effect, because slices are not compressed.

    Raises:
        FileNotFoundError: If the split file or a volume does not exist.
        ValueError: If ``metainfo`` has other classes than the manifest, a volume was stored along
            another axis or with other channels, or a setting is invalid.
    """

    converter = 'nnunet'

    def __init__(
        self, *args: Any, ann_file: str, metainfo: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        if kwargs.pop('image_cache', None) is not None:
            print_log(
                'VolumeSliceDataset: image_cache has no effect, because slices are not compressed',
                'current',
                logging.WARNING,
            )
        self._manifest = read_manifest(osp.dirname(ann_file))
        found = self._manifest.get('classes')
        metainfo = dict(metainfo or {})
        if found and tuple(metainfo.setdefault('classes', tuple(found))) != tuple(found):
            raise ValueError(
                f'Invalid classes of metainfo: expected {tuple(found)}, as in the manifest of '
                f'{ann_file}, got {tuple(metainfo["classes"])}. Remove metainfo'
            )
        number = len(metainfo.get('classes', ()))
        if not number and osp.isfile(ann_file):  # a missing file is an error below
            raise ValueError(
                f'{ann_file}: expected the classes in {INFO_FILE} next to it, got none. Copy it, '
                'too, or set classes of metainfo'
            )
        colors = [list(_COLORS[index % len(_COLORS)]) for index in range(number - 1)]
        metainfo.setdefault('palette', [[0, 0, 0], *colors][:number])
        self._cases: dict[str, Case] = {}
        super().__init__(*args, ann_file=ann_file, metainfo=metainfo, **kwargs)
        for step in self.pipeline.transforms:
            if isinstance(step, NormalizeVolume) and step.channels is None:
                step.channels = manifest_intensity(ann_file)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> None:
        """Keep labels as they are stored."""
        return

    def _read(self, root: str, name: str) -> Case:
        """Read a case; a conversion with other settings may have been stopped."""
        case = read_case(root, name)
        found = dict(axis=case.axes[0], channel_names=case.channels)
        expected = {key: self._manifest.get(key, value) for key, value in found.items()}
        if found != expected:
            raise ValueError(
                f'{osp.join(root, name)}.json: expected {expected}, as in the manifest of '
                f'{self.ann_file}, got {found}. Run the converter again with --force'
            )
        return case

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
        case = self._cases.get(name) or self._cases.setdefault(name, self._read(root, name))
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
