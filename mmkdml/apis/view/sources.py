"""Cases of the viewer: named files, or the test split of the run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import mmcv
import numpy as np
import torch
from mmengine.dataset import pseudo_collate

from mmkdml.analysis.case_measures import list_cases
from mmkdml.apis.prediction import ReadOptions
from mmkdml.apis.prediction.answers import answer_of
from mmkdml.apis.prediction.inputs import Source, find_sources
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.apis.view.truth import TruthFolder
from mmkdml.datasets.channels import as_picture, read_picture
from mmkdml.evaluation.boxes.samples import has_boxes, true_boxes_of
from mmkdml.evaluation.mask_panels import IGNORED
from mmkdml.evaluation.predictions import mask_of, truth_of
from mmkdml.names import MULTI_LABEL
from mmkdml.registry import DATASETS

_BATCH = 8  # slices


class FileCases:
    """Cases from files, predicted by :meth:`Predictor.stream`.

    Attributes:
        groups: Group (patient) of each case by its name.
        has_truth: Whether the truth is known.

    Args:
        predictor: The run.
        images: Files and folders.
        read: Options for reading them.
        truth: Folder of true masks; see :class:`~mmkdml.apis.view.truth.TruthFolder`.

    Raises:
        FileNotFoundError: If a file or folder does not exist.
        ValueError: If a folder has no images, or the truth is invalid.
    """

    def __init__(
        self,
        predictor: Predictor,
        images: Sequence[str | Path],
        read: ReadOptions,
        truth: Path | None = None,
    ) -> None:
        sources = find_sources(list(images), channels=predictor.channels)
        self._sources = {source.name: source for source in sources}
        self._predictor, self._read = predictor, read
        self._truth = None if truth is None else TruthFolder(truth, predictor, read)
        self.groups = {name: name for name in self._sources}
        self.has_truth = self._truth is not None

    def load(self, name: str) -> Iterator[ViewSlice]:
        """Predict the slices of a case.

        Raises:
            OSError: If a file is unreadable.
            ValueError: If the case is unreadable, or its truth does not fit.
        """
        source: Source = self._sources[name]
        masks = None
        for one in self._predictor.stream([source], read=self._read, batch_size=_BATCH):
            volume = one.case.volume
            if self._truth is not None and masks is None:
                masks = self._truth.read(one.case, one.image.shape[:2])
            truth = None if masks is None else masks[one.index]
            spacing = volume.spacing if volume else None
            yield ViewSlice(one.image, one.answers, truth, spacing)


class SplitCases:
    """The test split of the run, with its truth.

    Slices of volumes that have a ``case`` in the data set form one case. Attributes are those of
    :class:`FileCases`.

    Args:
        predictor: The run.

    Raises:
        FileNotFoundError: If the data does not exist.
        ValueError: If the config has no test split, or its images have no id.
    """

    has_truth = True

    def __init__(self, predictor: Predictor) -> None:
        loader = predictor.config.get('test_dataloader')
        if not loader:
            raise ValueError(
                'test_dataloader: expected the test split of the run, got none in its config. '
                'Pass images after the run'
            )
        self._dataset: Any = DATASETS.build(loader['dataset'])
        self._predictor, self._model = predictor, cast(Any, predictor.model)
        table = list_cases(self._dataset)
        self.groups: dict[str, str] = {}
        places: dict[str, list[tuple[int, int]]] = {}
        for index, (one, group) in enumerate(zip(table['id'], table['group'], strict=True)):
            info = self._dataset.get_data_info(index)
            name = str(info.get('case') or one)
            places.setdefault(name, []).append((int(info.get('slice', 0)), index))
            self.groups.setdefault(name, group)
        self._places = {name: [index for _, index in sorted(own)] for name, own in places.items()}

    def load(self, name: str) -> Iterator[ViewSlice]:
        """Predict the slices of a case.

        Raises:
            OSError: If a file is unreadable.
            ValueError: If a sample has no truth.
        """
        indices = self._places[name]
        for start in range(0, len(indices), _BATCH):
            data = [self._dataset[index] for index in indices[start : start + _BATCH]]
            # Images of different sizes are predicted one by one.
            equal = len({tuple(one['inputs'].shape) for one in data}) == 1
            for batch in [data] if equal else [[one] for one in data]:
                with torch.no_grad():
                    samples = self._model.test_step(pseudo_collate(batch))
                for item, sample in zip(batch, samples, strict=True):
                    yield self._slice(item, sample)

    def _slice(self, item: dict[str, Any], sample: Any) -> ViewSlice:
        predictor = self._predictor
        multi = predictor.multi_label
        answers = {name: answer_of(sample, name, multi) for name in predictor.members}
        path = Path(str(sample.get('img_path', '')))
        pixels = item['inputs'].permute(1, 2, 0).squeeze(-1).numpy()
        image = read_picture(path) if path.is_file() else as_picture(pixels)
        truth = _truth(sample, multi)
        if isinstance(truth, np.ndarray) and image.shape[:2] != truth.shape:
            image = mmcv.imresize(image, truth.shape[::-1])
        spacing = sample.get('spacing')
        return ViewSlice(image, answers, truth, spacing and (spacing[-2], spacing[-1]))


#: Where the cases of the viewer come from.
Cases = FileCases | SplitCases


def _truth(sample: Any, multi_label: bool) -> Any:
    if has_boxes(sample):
        return true_boxes_of(sample)
    mask = mask_of(sample)
    if mask is not None:
        return mask.cpu().numpy().clip(0, IGNORED).astype(np.uint8)
    labels = truth_of(sample, {MULTI_LABEL: multi_label})
    return tuple(labels.nonzero()[:, 0].tolist()) if multi_label else int(labels)
