"""From a run and an image to answers: of each member and of the ensemble."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement
from rich.progress import track
from torch import nn

from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.apis.prediction.inputs import Case, ReadOptions, Source, find_sources, read_source
from mmkdml.apis.runs import load_config
from mmkdml.apis.trained import load_with_meta, run_files
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.models.checkpoints import resolve_checkpoint
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.member_tta import MemberTTA
from mmkdml.models.tasks import task_of
from mmkdml.names import ENSEMBLE, PLAIN

#: Told of a case that cannot be predicted, and why.
OnError = Callable[[Source, ValueError], None]
# An image's case, its index in it, its pixels, and what the pipeline packed.
Item = tuple[Case, int, np.ndarray, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Answer:
    """What one member, or the ensemble, says of one image.

    Attributes:
        label: The class of the image, an int, or of each pixel, (H, W) uint8.
        probabilities: (K,), or (K, H, W), float32; K = 1 is the foreground's. An ensemble by the
            highest probability or by union gives scores that need not add up to 1.
    """

    label: Any
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Prediction:
    """The answers to one image.

    Attributes:
        case: The file, stack, volume or array it is from.
        index: Which of the case's images it is, from 0.
        image: (H, W, 3) uint8 RGB, as it was loaded and before it was resized.
        answers: By member, teachers first and ``'ensemble'`` last; a plain network is ``'model'``.
            Masks have the image's size.
    """

    case: Case
    index: int
    image: np.ndarray
    answers: dict[str, Answer]


class Predictor:
    """A trained classroom or plain network, ready to predict; :func:`load` makes it.

    Args:
        model: In evaluation mode, on its device.
        config: Whose test pipeline loads and resizes.
        classes: Names of the classes, None where they are not known.
        checkpoint: File that the weights are from.

    Attributes:
        members: Names of those who answer.
        task: ``'classification'`` or ``'segmentation'``.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        classes: Sequence[str] | None = None,
        checkpoint: Path | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.classes = tuple(classes) if classes else None
        self.checkpoint = checkpoint
        if isinstance(model, KnowledgeDistiller):
            self.members = (*members_in_order(model.named_members()), ENSEMBLE)
            self.task = model.task.name
        else:
            self.members = (PLAIN,)
            self.task = task_of({PLAIN: model}).name

    def predict(self, images: Any, **options: Any) -> list[Prediction]:
        """All answers at once; see :meth:`stream`, which takes less memory."""
        return list(self.stream(images, **options))

    def stream(
        self,
        images: Any,
        members: Sequence[str] | None = None,
        batch_size: int = 8,
        augment: bool = False,
        progress: bool = False,
        read: ReadOptions | None = None,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Answers image by image, in order, the images of a case one after the other.

        Args:
            images: A file, folder, TIFF stack, NIfTI volume, folder of a DICOM series, array
                (H, W) grey or (H, W, 3) RGB of uint8, a sequence of these, or the sources that
                :func:`~mmkdml.apis.prediction.inputs.find_sources` found in them.
            members: Names of those whose answers are wanted. Default: all.
            batch_size: Images in a forward; smaller takes less memory.
            augment: Average over test-time augmentation; see
                :class:`~mmkdml.apis.prediction.image_pipeline.ImagePipeline`.
            progress: Show a bar.
            read: How cases are read.
            on_error: Called for a case that cannot be read, which is then left out. Default: the
                error is raised.

        Raises:
            FileNotFoundError: If there is no such file or folder.
            TypeError: If ``images`` are none of these.
            ValueError: If a case cannot be read, or an argument is out of range.
        """
        wanted = self._known(self.members if members is None else members)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size must be a whole number of 1 or more, got {batch_size!r}')
        known = isinstance(images, list) and all(isinstance(one, Source) for one in images)
        sources = images if known else find_sources(images)
        pipeline = ImagePipeline(self.config, augment)
        module = MemberTTA.of(self.model, self.config.get('tta_model')) if augment else self.model
        cases = _cases(sources, pipeline, read or ReadOptions(), on_error, progress)
        # Not a generator itself, so that wrong arguments show at once.
        return _predictions(module, cases, wanted, batch_size)

    def _known(self, members: Sequence[str]) -> tuple[str, ...]:
        unknown = [name for name in members if name not in self.members]
        if unknown or not members:
            raise ValueError(
                f'members must be some of {", ".join(self.members)}; got {list(members)}'
            )
        return tuple(name for name in self.members if name in members)


def load(
    run_or_config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
) -> Predictor:
    """Loads what a run trained, or what was published; no code that the checkpoint may hold runs.

    Args:
        run_or_config: Folder of a run, in which its config is; or a config or its file, of a
            classroom, a classifier of mmpretrain or a segmentor of mmseg.
        checkpoint: File, or folder of a run for its best one. Default: that of the run.
        device: Such as ``'cpu'`` or ``'cuda:1'``. Default: a GPU if there is one.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        TypeError: If the model is none of these.
        ValueError: If a folder does not hold one config, a config comes without checkpoint, the
            checkpoint does not fit or holds more than weights, or there is no such device.
    """
    if isinstance(run_or_config, Config):
        if checkpoint is None:
            raise ValueError('a config needs a checkpoint beside it; give its file or its run')
        config, path = run_or_config, resolve_checkpoint(checkpoint)
    else:
        file, path = run_files(run_or_config, checkpoint)
        config = load_config(file)
    where = _device(device)
    model, meta = load_with_meta(config, path)
    return Predictor(model.to(where), config, (meta or {}).get('classes'), path)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        probe = torch.zeros(1, device=device)
        probe.cpu()  # which 'meta' cannot
        return probe.device
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device must be one that torch has here, such as 'cpu'; got {device!r} ({reason})"
        ) from error


def _cases(
    sources: Sequence[Source],
    pipeline: ImagePipeline,
    options: ReadOptions,
    on_error: OnError | None,
    progress: bool,
) -> Iterator[Iterable[Item]]:
    """Prepare the images of one case after the other."""
    for source in track(sources, 'Predicting', disable=not progress):
        try:
            case = read_source(source, options)
            prepared: Iterable[Item] = _prepared(case, pipeline)
            if len(case.images) == 1:
                prepared = list(prepared)
            else:  # all are tried before the first one is predicted, but would not fit into memory
                deque(prepared, maxlen=0)
                prepared = _prepared(case, pipeline)
        except ValueError as error:
            if on_error is None:
                raise
            on_error(source, error)
        else:
            yield prepared


def _prepared(case: Case, pipeline: ImagePipeline) -> Iterator[Item]:
    """Yield the case's images, each unchanged and preprocessed for the network.

    Raises:
        ValueError: If the pipeline fails; names the case.
    """
    path = case.source.files[0] if case.source.files else case.source.name
    for index, pixels in enumerate(case.images):
        try:
            item = (case, index, *pipeline(path, pixels))
        except Exception as error:  # of the config's own transforms
            raise ValueError(
                f"{path}: the config's test pipeline fails on it ({type(error).__name__}: {error})"
            ) from error
        yield item


def _predictions(
    module: Any, cases: Iterator[Iterable[Item]], members: Sequence[str], batch_size: int
) -> Iterator[Prediction]:
    """Answers in batches, which go over the ends of cases but hold images of one size alone."""
    batch: list[Item] = []
    for item in chain.from_iterable(cases):
        if batch and (len(batch) == batch_size or _shape(item) != _shape(batch[0])):
            yield from _answered(module, batch, members)
            batch = []
        batch.append(item)
    if batch:
        yield from _answered(module, batch, members)


def _shape(item: Item) -> Any:
    """Of the network's input; a list for the views of test-time augmentation."""
    inputs = item[3]['inputs']
    return [view.shape for view in inputs] if isinstance(inputs, list) else inputs.shape


@torch.no_grad()
def _answered(module: Any, batch: list[Item], members: Sequence[str]) -> list[Prediction]:
    try:
        samples = module.test_step(pseudo_collate([packed for *_, packed in batch]))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f'out of memory with {len(batch)} images of {batch[0][2].shape[:2]} at once, from '
            f'{batch[0][0].source.name} on; give a smaller batch_size (--batch-size)'
        ) from error
    return [
        Prediction(case, index, image, {name: _answer(sample, name) for name in members})
        for (case, index, image, _), sample in zip(batch, samples, strict=True)
    ]


def _answer(sample: BaseDataElement, name: str) -> Answer:
    own = sample if name in (ENSEMBLE, PLAIN) else sample.members.get(name)
    if 'pred_score' in own:
        if own.pred_label.numel() != 1:
            raise ValueError(
                f'{name} must give one label for each image, but gives {own.pred_label.numel()}; '
                'multi-label networks cannot predict here'
            )
        return Answer(int(own.pred_label), own.pred_score.float().cpu().numpy())
    scores = own.seg_logits.data.float()
    if name != ENSEMBLE and len(scores) > 1:  # of one class, mmseg gives the probability itself
        scores = scores.softmax(dim=0)
    return Answer(own.pred_sem_seg.data[0].byte().cpu().numpy(), scores.cpu().numpy())
