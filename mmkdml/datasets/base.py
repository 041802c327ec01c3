"""Base classes of the data sets, which read split files."""

from __future__ import annotations

import logging
import os.path as osp
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.logging import print_log
from mmpretrain.datasets import BaseDataset
from mmseg.datasets import BaseSegDataset

from mmkdml.commands import tool_command
from mmkdml.datasets.class_masks import MASK_TABLE, data_set_classes
from mmkdml.datasets.image_cache import cached_pipeline
from mmkdml.datasets.images import DRAWN_ON
from mmkdml.datasets.splits import SplitRow, read_split
from mmkdml.datasets.splits.manifest import read_manifest
from mmkdml.datasets.splits.split_checks import refuse_outside, refuse_repeats
from mmkdml.datasets.transforms import header_of
from mmkdml.datasets.volumes.store import volume_file
from mmkdml.functional.checks import check_choice
from mmkdml.registry import DATASETS

# Limit of the samples per epoch of a split file with repeats.
_MAX_SAMPLES = 10_000_000


class SplitFileMixin(ABC):
    """Mixin that makes a data set of mmpretrain or mmseg read a split file; list it first.

    ``ann_file`` is the split file, relative to the working directory; the paths in it are relative
    to ``data_root``. If a sample fails to load, the error names its files, also in a worker of the
    data loader.

    Args:
        *args: Passed to the framework's data set.
        allow_outside: Allow symbolic links in ``data_root`` that lead out of it.
        without: Split file whose images are left out. Default: none.
        image_cache: Arguments of :func:`~mmkdml.datasets.cached_pipeline`: ``dir``, the folder of
            the cache, and ``limit``, its size in GiB. Samples stay bit-identical. Default: no
            cache.
        **kwargs: Passed to the framework's data set.

    Attributes:
        converter: Converter that writes the split files, with its options.

    Raises:
        FileNotFoundError: If the split file or its first image does not exist.
        ValueError: If the split file or a setting is invalid.
    """

    converter: ClassVar[str] = 'folders'
    ann_file: str
    data_root: str | None
    test_mode: bool
    pipeline: Any
    _fully_initialized: bool

    def __init__(
        self,
        *args: Any,
        allow_outside: bool = False,
        image_cache: Mapping[str, Any] | None = None,
        without: str | None = None,
        **kwargs: Any,
    ) -> None:
        if image_cache is not None and not {'dir'} <= set(image_cache) <= {'dir', 'limit'}:
            raise ValueError(
                'Invalid image_cache: expected the key dir (a folder) and optionally limit (GiB), '
                f'got {image_cache!r}'
            )
        # Needed by the framework's __init__.
        self.allow_outside, self.image_cache, self.without = allow_outside, image_cache, without
        try:
            super().__init__(*args, **kwargs)
        except OSError:
            raise
        except Exception as error:  # the frameworks do not check all settings
            kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
            raise ValueError(f'{type(self).__name__}: {kind}{error}') from error

    @classmethod
    def annotation_files(cls, settings: Mapping[str, Any]) -> list[str]:
        """Return the files that a data set with some settings reads, except images and masks.

        Args:
            settings: Arguments of the constructor.
        """
        return [settings[key] for key in ('ann_file', 'without') if settings.get(key) is not None]

    def full_init(self) -> None:
        """Read the split file, and fill the image cache."""
        if self._fully_initialized:
            return
        super().full_init()  # type: ignore[misc]
        if any(type(step) is LoadImageFromFile for step in self.pipeline.transforms):
            print_log(
                f'{type(self).__name__}: LoadImageFromFile of mmcv alters images with 16 bits, '
                'transparency or several pages. Use LoadCheckedImage, which refuses them',
                'current',
                logging.WARNING,
            )
        if self.image_cache is not None:
            samples = [self.get_data_info(i) for i in range(len(self))]  # type: ignore
            self.pipeline.transforms = cached_pipeline(
                self.pipeline.transforms, samples, **self.image_cache
            )

    def _join_prefix(self) -> None:
        """Keep ``ann_file``, which the frameworks would join with ``data_root``."""
        ann_file, self.ann_file = self.ann_file, ''
        super()._join_prefix()  # type: ignore[misc]
        self.ann_file = ann_file

    def load_data_list(self) -> list[dict[str, Any]]:
        """Return a dict per sample: ``id``, ``group``, ``img_path`` and keys of :meth:`row_info`.

        A training image with ``repeats`` n yields n consecutive samples.

        Raises:
            FileNotFoundError: If the split file or its first image does not exist.
            ValueError: If the split file is invalid, repeats images too often or in test mode, or a
                link leads out of ``data_root`` and ``allow_outside`` is not set.
        """
        root = self.data_root or ''
        rows = read_split(self.ann_file)
        if self.without is not None:
            left_out = {row.id for row in read_split(self.without)}
            rows = [row for row in rows if row.id not in left_out]
            if not rows:
                raise ValueError(
                    f'Invalid without: expected images in {self.ann_file} that are not in '
                    f'{self.without}, got none. Use a larger share of it (--ratios), or fewer folds'
                )
        if not osp.isfile(first := osp.join(root, volume_file(rows[0].path))):
            raise FileNotFoundError(
                'Invalid data_root: expected the source folder of the converter, got '
                f'{self.data_root!r}. The first image of {self.ann_file} is not at {first}'
            )
        if self.test_mode:
            refuse_repeats(rows, self.ann_file)
        samples = sum(row.repeats for row in rows)
        if samples > max(len(rows), _MAX_SAMPLES):
            raise ValueError(
                f'{self.ann_file}: expected at most {_MAX_SAMPLES} samples per epoch, got '
                f'{samples}. Reduce the repeats of its {len(rows)} images'
            )
        if not self.allow_outside:
            refuse_outside(rows, root, self.ann_file)
        return [
            dict(
                id=row.id, group=row.group, img_path=osp.join(root, row.path), **self.row_info(row)
            )
            for row in rows
            for _ in range(row.repeats)
        ]

    @abstractmethod
    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return the keys of a sample that the framework needs in addition to the image path."""

    def prepare_data(self, idx: int) -> Any:
        """Run the pipeline on a sample.

        Raises:
            RuntimeError: If that fails; the message names the data set, index and files.
        """
        try:
            return super().prepare_data(idx)  # type: ignore[misc]
        except Exception as error:
            # One string as argument, so that a worker of the data loader can pickle the error.
            info = self.get_data_info(idx)  # type: ignore[attr-defined]
            files = ', '.join(info[key] for key in ('img_path', 'seg_map_path') if key in info)
            raise RuntimeError(
                f'{type(self).__name__}: sample {idx} ({files}) of {self.ann_file} '
                f'could not be prepared: {type(error).__name__}: {error}'
            ) from error


def set_image_cache(settings: dict[str, Any], folder: str | Path) -> None:
    """Set the image cache of a data set's config.

    Args:
        settings: Config of the data set, with its ``type``; modified.
        folder: Folder of the cache; see :func:`~mmkdml.datasets.cached_pipeline`.

    Raises:
        TypeError: If the data set does not read split files.
    """
    named = settings['type']
    kind = DATASETS.get(named) if isinstance(named, str) else named
    if not (isinstance(kind, type) and issubclass(kind, SplitFileMixin)):
        raise TypeError(
            'Invalid data set for an image cache: expected one with split files, such as '
            f'SplitClassificationDataset or SplitSegDataset, got {named}'
        )
    settings['image_cache'] = dict(settings.get('image_cache') or {}, dir=str(folder))


@DATASETS.register_module()
class SplitClassificationDataset(SplitFileMixin, BaseDataset):
    """Images and labels of a split file, for mmpretrain.

    ``metainfo=dict(classes=(...))`` names the classes in the order of the labels.

    Args:
        ann_file: Split file, relative to the working directory.
        data_root: Folder that the paths in it are relative to.
        **kwargs: ``allow_outside`` and ``image_cache`` (see :class:`SplitFileMixin`), and arguments
            of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode``...).
    """

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return the label as ``gt_label``.

        Raises:
            ValueError: If the label is not an index of the classes.
        """
        if self.CLASSES is not None and row.label >= len(self.CLASSES):
            raise ValueError(
                f'{self.ann_file}: invalid label {row.label} of {row.id!r}: expected an index of '
                f'the {len(self.CLASSES)} classes {self.CLASSES}'
            )
        return dict(gt_label=row.label)


@DATASETS.register_module()
class SplitSegDataset(SplitFileMixin, BaseSegDataset):
    """Images and masks of a split file, for mmseg.

    Load masks with :class:`~mmkdml.datasets.LoadClassMask`. For binary masks mmseg's
    ``LoadAnnotations`` also works if none is a palette image and no image has an EXIF orientation.
    ``id`` and ``group`` can be used as ``meta_keys`` of ``PackSegInputs``.

    ``metainfo=dict(classes=(...))`` names background and foreground of binary masks. The classes of
    other masks and their values are in ``splits.json`` next to ``ann_file``.

    Args:
        ann_file: Split file with masks, relative to the working directory.
        data_root: Folder that the paths in it are relative to.
        masks_drawn_on: See :func:`~mmkdml.datasets.images.read_binary_mask`. Default: the value in
            ``splits.json`` next to ``ann_file``; without one, ambiguous masks are an error.
        mask_table: Dict with ``values`` and optionally ``ignore`` and ``colors``, arguments of
            :class:`~mmkdml.datasets.class_masks.ClassTable`. Default: that in ``splits.json``;
            without the file, the values 0, 1, ... of more than two classes.
        **kwargs: ``allow_outside`` and ``image_cache`` (see :class:`SplitFileMixin`), and arguments
            of mmseg's ``BaseSegDataset`` (``pipeline``, ``indices``, ``test_mode``...).

    Raises:
        ValueError: If ``masks_drawn_on``, ``mask_table`` or the classes are invalid.
    """

    METAINFO = dict(classes=('background', 'foreground'), palette=[[0, 0, 0], [255, 64, 64]])
    converter = 'folders --images DIR --masks DIR'

    def __init__(
        self,
        ann_file: str = '',
        *args: Any,
        masks_drawn_on: str | None = None,
        mask_table: Mapping[str, Any] | None = None,
        metainfo: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if masks_drawn_on is not None:
            check_choice('masks_drawn_on', masks_drawn_on, DRAWN_ON)
        if not isinstance(metainfo, Mapping | None):
            raise TypeError(f'Invalid metainfo: expected a dict, got {metainfo!r}')
        own = {} if self.METAINFO is SplitSegDataset.METAINFO else self.METAINFO
        manifest = read_manifest(osp.dirname(ann_file)) if isinstance(ann_file, str) else {}
        self.masks_drawn_on = masks_drawn_on or manifest.get('masks_drawn_on')
        found, self.mask_table = data_set_classes({**own, **(metainfo or {})}, manifest, mask_table)
        super().__init__(ann_file, *args, metainfo=found, **kwargs)

    def get_data_info(self, idx: int) -> dict[str, Any]:
        """Extend the base class: add the table of masks with several classes."""
        info = super().get_data_info(idx)
        return info if self.mask_table is None else {**info, MASK_TABLE: self.mask_table}

    def load_data_list(self) -> list[dict[str, Any]]:
        """Extend the base class: add ``masks_drawn_on`` to each sample if it is known."""
        samples = super().load_data_list()
        if self.masks_drawn_on is not None:
            check_choice(f'masks_drawn_on of {self.ann_file}', self.masks_drawn_on, DRAWN_ON)
            for sample in samples:
                sample['masks_drawn_on'] = self.masks_drawn_on
        return samples

    def prepare_data(self, idx: int) -> Any:
        """Extend the base class: refuse masks that ``LoadAnnotations`` would read wrongly."""
        if any(isinstance(step, LoadAnnotations) for step in self.pipeline.transforms):
            header = header_of(info := self.get_data_info(idx))
            problem = 'accepts values that are not in the table of classes'
            if header is not None and header.orientation != 1:
                problem = f'does not rotate masks, but EXIF orientation {header.orientation} images'
            elif self.mask_table is None:
                return super().prepare_data(idx)
            raise RuntimeError(f'{info["img_path"]}: LoadAnnotations {problem}. Use LoadClassMask')
        return super().prepare_data(idx)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Map the value 255 of a binary mask to class 1, for ``LoadAnnotations``."""
        return {255: 1} if new_classes is None or len(new_classes) == 2 else None

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return the keys of the mask that mmseg's ``LoadAnnotations`` needs.

        Raises:
            ValueError: If the split file has no masks.
        """
        if row.mask is None:
            raise ValueError(
                f'{self.ann_file}: expected a column mask, got none. Convert the data set with '
                f'masks ({tool_command("dataset_converters")})'
            )
        return dict(
            seg_map_path=f'{self.data_root or "."}/{row.mask}',
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
        )
