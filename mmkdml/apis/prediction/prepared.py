"""Read cases one after another, and prepare their images by the test pipeline."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from rich.progress import track

from mmkdml.apis.prediction.image_pipeline import FoldPipelines, ImagePipeline
from mmkdml.apis.prediction.inputs import Case, ReadOptions, Source, read_source

#: Called with a case that failed, and the error.
OnError = Callable[[Source, ValueError], None]
# Case, index of the image in the case, image, packed output of the pipeline.
Item = tuple[Case, int, np.ndarray, dict[str, Any]]


def read_cases(
    sources: Sequence[Source], options: ReadOptions, on_error: OnError | None, progress: bool
) -> Iterator[Case]:
    """Read cases one after another; failed ones are skipped if ``on_error`` is set."""
    for source in track(sources, 'Predicting', disable=not progress):
        try:
            case = read_source(source, options)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(source, error)
        else:
            yield case


def prepared_cases(
    cases: Iterable[Case], pipeline: ImagePipeline | FoldPipelines, on_error: OnError | None
) -> Iterator[Iterable[Item]]:
    """Yield the prepared images of the cases, one case after another."""
    for case in cases:
        try:
            prepared: Iterable[Item] = _prepared(case, pipeline)
            if len(case.images) == 1:
                prepared = list(prepared)
            else:  # check all before the first is predicted, without keeping them in memory
                deque(prepared, maxlen=0)
                prepared = _prepared(case, pipeline)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(case.source, error)
        else:
            yield prepared


def _prepared(case: Case, pipeline: ImagePipeline | FoldPipelines) -> Iterator[Item]:
    """Yield each image of a case, as loaded and as packed by the pipeline."""
    path = case.source.files[0] if case.source.files else case.source.name
    intensity = case.volume.intensity if case.volume else None
    for index, pixels in enumerate(case.images):
        try:
            item = (case, index, *pipeline(path, pixels, intensity))
        except Exception as error:  # the config's transforms may raise anything
            raise ValueError(
                f'{path}: the test pipeline failed ({type(error).__name__}: {error})'
            ) from error
        yield item
