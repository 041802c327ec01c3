"""Prediction of images with a trained run: each member and the ensemble."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import nn

from mmkdml.apis.fused_evaluation import use_fused_step
from mmkdml.apis.prediction.answers import Prediction, answer_of
from mmkdml.apis.prediction.image_pipeline import FoldPipelines, ImagePipeline
from mmkdml.apis.prediction.inputs import Case, ReadOptions, Source, find_sources
from mmkdml.apis.prediction.prepared import Item, OnError, prepared_cases, read_cases
from mmkdml.apis.run.config import load_run
from mmkdml.apis.trained import load_with_meta
from mmkdml.datasets.class_masks import MASK_TABLE, ClassTable
from mmkdml.evaluation.member_metrics import members_in_order
from mmkdml.files import file_sha256
from mmkdml.models.checkpoints import resolve_checkpoint
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.member_tta import MemberTTA
from mmkdml.models.tasks import Task, task_of
from mmkdml.names import ENSEMBLE, PLAIN

T = TypeVar('T')


class Predictor:
    """A trained classroom or plain network, as :func:`load` returns it.

    Args:
        model: The model in eval mode, on its device.
        config: Config whose test pipeline loads and resizes images.
        classes: Names of the classes; None if unknown.
        checkpoint: File of the weights.
        colors: Color (r, g, b) of each class in predicted masks; None for gray masks.

    Attributes:
        members: Names of the members that predict, including the ensemble.
        task: ``'classification'``, ``'segmentation'`` or ``'detection'``.
        multi_label: True if images can have several classes or none.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Config,
        classes: Sequence[str] | None = None,
        checkpoint: Path | None = None,
        colors: Sequence[Sequence[int]] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.classes = tuple(classes) if classes else None
        self.checkpoint = checkpoint
        self.colors = colors
        if isinstance(model, KnowledgeDistiller):
            self.members = (*members_in_order(model.named_members()), ENSEMBLE)
            task: Task = model.task
        else:
            self.members = (PLAIN,)
            task = task_of({PLAIN: model})
            use_fused_step(model)
        self.task, self.multi_label = task.name, task.multi_label

    @property
    def channels(self) -> int | None:
        """Channels of the images; None for gray and RGB images."""
        return self.pipeline().channels

    def pipeline(self, augment: bool = False) -> ImagePipeline | FoldPipelines:
        """Build the test pipeline; see :class:`ImagePipeline`."""
        return ImagePipeline(self.config, augment)

    @property
    def checkpoint_sha256(self) -> str | None:
        """SHA-256 of the file of the weights."""
        return None if self.checkpoint is None else file_sha256(self.checkpoint)

    def predict(self, images: Any, **options: Any) -> list[Prediction]:
        """Return all predictions as a list; :meth:`stream` takes less memory."""
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
        """Predict image by image, in the order of the cases and of the images in each case.

        Args:
            images: File, folder, TIFF stack, NIfTI volume, folder of a DICOM series, array (H, W)
                gray or (H, W, 3) RGB of uint8 (with ``LoadMultiChannelImage``: a file or array of
                these channels), a sequence of these, or a list from
                :func:`~mmkdml.apis.prediction.inputs.find_sources`.
            members: Names of the members to return. Default: all.
            batch_size: Number of images per forward pass.
            augment: Average over test-time augmentation; see
                :class:`~mmkdml.apis.prediction.image_pipeline.ImagePipeline`.
            progress: Show a progress bar.
            read: Options for reading images and volumes.
            on_error: Called with each unreadable case, which is skipped. Default: raise the error.

        Raises:
            FileNotFoundError: If a file or folder does not exist.
            TypeError: If ``images`` has another type.
            ValueError: If a case is unreadable, or an argument is invalid.
        """
        known = isinstance(images, list) and all(isinstance(one, Source) for one in images)
        sources = images if known else find_sources(images, channels=self.channels)
        cases = self.read(sources, read, on_error, progress)
        return self.stream_cases(cases, members, batch_size, augment, on_error)

    def read(
        self,
        sources: Sequence[Source],
        read: ReadOptions | None = None,
        on_error: OnError | None = None,
        progress: bool = False,
    ) -> Iterator[Case]:
        """Read cases one after another.

        Args:
            sources: See :func:`~mmkdml.apis.prediction.inputs.find_sources`.
            read: See :meth:`stream`.
            on_error: See :meth:`stream`.
            progress: See :meth:`stream`.
        """
        pipeline = self.pipeline()
        options = replace(read or ReadOptions(), channels=pipeline.channels, form=pipeline.form)
        return read_cases(sources, options, on_error, progress)

    def stream_cases(
        self,
        cases: Iterable[Case],
        members: Sequence[str] | None = None,
        batch_size: int = 8,
        augment: bool = False,
        on_error: OnError | None = None,
    ) -> Iterator[Prediction]:
        """Predict cases that have already been read; see :meth:`stream`.

        Several models predict the same slices in lockstep if each gets its own iterator of
        ``itertools.tee(predictor.read(sources), N)`` and their predictions are combined by ``zip``.

        Raises:
            ValueError: If the test pipeline fails for a case, or an argument is invalid.
        """
        wanted = self._known(self.members if members is None else members)
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f'batch_size: expected an integer of at least 1, got {batch_size!r}')
        pipeline = self.pipeline(augment)
        module = MemberTTA.of(self.model, self.config.get('tta_model')) if augment else self.model
        # Not a generator itself, so that invalid arguments raise at once.
        items = chain.from_iterable(prepared_cases(cases, pipeline, on_error))
        batches = equal_batches(items, batch_size, _shape)
        return chain.from_iterable(
            _predict_batch(module, batch, wanted, self.multi_label) for batch in batches
        )

    def _known(self, members: Sequence[str]) -> tuple[str, ...]:
        unknown = [name for name in members if name not in self.members]
        if unknown or not members:
            raise ValueError(
                f'members: expected some of {", ".join(self.members)}, got {list(members)}'
            )
        return tuple(name for name in self.members if name in members)


def load(
    run_or_config: str | Path | Config,
    checkpoint: str | Path | None = None,
    device: str | torch.device | None = None,
    use_config: bool = False,
) -> Predictor:
    """Load a trained or published model, without executing code from the checkpoint.

    Args:
        run_or_config: Folder of a run or of a published model; or a config or config file of a
            classroom, an mmpretrain classifier, an mmseg segmentor or an mmdet detector.
        checkpoint: Checkpoint file, or folder of a run for its best one. Default: the best one of
            the run.
        device: Device, such as ``'cpu'`` or ``'cuda:1'``. Default: a GPU if available.
        use_config: Allow a config with other settings than the run of the folder.

    Raises:
        FileNotFoundError: If the config or checkpoint does not exist.
        TypeError: If the model is of another kind.
        ValueError: If the folder does not hold exactly one config, the checkpoint is missing,
            unsafe or does not fit the model, the config differs from that of the run, or the device
            is not available.
    """
    if isinstance(run_or_config, Config):
        if checkpoint is None:
            raise ValueError('checkpoint: expected a file or the folder of a run, got None')
        config, path = run_or_config, Path(checkpoint)
    else:
        config, path = load_run(
            run_or_config, checkpoint, use_config=use_config, only_prediction=True
        )
    where = _device(device)
    model, meta = load_with_meta(config, path, use_config)
    path = resolve_checkpoint(path)
    table = meta.get(MASK_TABLE)
    colors = ClassTable.from_info(table).colors if table else None
    return Predictor(model.to(where), config, meta.get('classes'), path, colors)


def _device(device: str | torch.device | None) -> torch.device:
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        probe = torch.zeros(1, device=device)
        probe.cpu()  # fails on 'meta'
        return probe.device
    except (AssertionError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"device: expected an available device such as 'cpu', got {device!r} ({reason})"
        ) from error


def equal_batches(items: Iterable[T], size: int, shape_of: Callable[[T], Any]) -> Iterator[list[T]]:
    """Yield batches of up to ``size`` consecutive items of equal shape."""
    for _, alike in groupby(items, key=shape_of):
        while batch := list(islice(alike, size)):
            yield batch


def _shape(item: Item) -> Any:
    """Return the input shape of an item, or those of its augmented views."""
    inputs = item[3]['inputs']
    return [view.shape for view in inputs] if isinstance(inputs, list) else inputs.shape


@torch.no_grad()
def _predict_batch(
    module: Any, batch: list[Item], members: Sequence[str], multi_label: bool
) -> list[Prediction]:
    try:
        samples = module.test_step(pseudo_collate([packed for *_, packed in batch]))
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f'Out of memory with a batch of {len(batch)} images of {batch[0][2].shape[:2]}, '
            f'starting at {batch[0][0].source.name}. Choose a smaller batch_size (--batch-size)'
        ) from error
    return [
        Prediction(
            case, index, image, {name: answer_of(sample, name, multi_label) for name in members}
        )
        for (case, index, image, _), sample in zip(batch, samples, strict=True)
    ]
