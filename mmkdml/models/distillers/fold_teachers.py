"""Out-of-fold teachers: frozen networks of one member, each of which teaches unseen images."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmkdml.files import write_atomically
from mmkdml.models.distillers.terms.transfer_terms import MemberOutputs, TransferTerm

#: Suffix of the file that assigns images to checkpoints, in place of one checkpoint.
SUFFIX = '.json'


@dataclass(frozen=True)
class FoldTeachers:
    """Networks of a frozen member, and the index of the one that teaches each image.

    Args:
        file: File that :func:`write_fold_teachers` has written.
        checkpoints: Checkpoint, or folder of a run, of each network.
        teacher_of: Index of the network by id of the image.
        networks: The networks.
    """

    file: Path
    checkpoints: tuple[str, ...]
    teacher_of: Mapping[str, int]
    networks: tuple[nn.Module, ...]

    @classmethod
    def read(cls, path: str | Path, network: nn.Module) -> FoldTeachers:
        """Read a file of :func:`write_fold_teachers`, and copy a network for each checkpoint.

        Raises:
            FileNotFoundError: If the file does not exist.
            ValueError: If it is invalid.
        """
        path = Path(path)
        try:
            content = json.loads(path.read_bytes())
            checkpoints = [os.path.normpath(path.parent / one) for one in content['checkpoints']]
            teacher_of = dict(content['teacher_of'])
            known = range(len(checkpoints))
            valid = bool(known) and all(
                type(one) is int and one in known for one in teacher_of.values()
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ValueError(_invalid(path, f'{type(error).__name__}: {error}')) from error
        if not valid:
            raise ValueError(_invalid(path, f'{len(checkpoints)} checkpoints and other indices'))
        others = [copy.deepcopy(network) for _ in known[1:]]
        return cls(path, tuple(checkpoints), teacher_of, (network, *others))

    def outputs(
        self,
        name: str,
        run: Callable[[nn.Module, Tensor], MemberOutputs],
        taps: Collection[str],
        inputs: Tensor,
        samples: Iterable[Any] | None,
    ) -> MemberOutputs:
        """Return the outputs of a batch, in which each image passes through its own network.

        Args:
            name: Name of the member.
            run: Computes the outputs of a network for images.
            taps: Names of the feature maps.
            inputs: Images (N, C, H, W), normalized for the member.
            samples: Samples with the metainfo ``id``.

        Raises:
            ValueError: If a sample has no id or one without a network, or the first dimension of
                an output is not that of the images.
        """
        own = [self._index(sample.metainfo.get('id')) for sample in samples or ()]
        used = sorted(set(own))
        rows = [[place for place, one in enumerate(own) if one == index] for index in used]
        parts = [
            run(self.networks[index], inputs[places])
            for index, places in zip(used, rows, strict=True)
        ]
        order = torch.tensor([place for places in rows for place in places]).argsort()

        def merged(what: str, values: Sequence[Tensor]) -> Tensor:
            for value, places in zip(values, rows, strict=True):
                if len(value) != len(places):
                    raise ValueError(
                        f'Invalid {what} of {name} for teachers of folds: expected the first '
                        f'dimension {len(places)}, one for each image, got {tuple(value.shape)}'
                    )
            return torch.cat(list(values))[order.to(values[0].device)]

        with torch.inference_mode():
            maps = {tap: merged(f'tap {tap}', [one.taps[tap] for one in parts]) for tap in taps}
            logits = [one.logits for one in parts if one.logits is not None]
            return MemberOutputs(
                merged('logits', logits) if len(logits) == len(parts) else None, maps, name
            )

    def _index(self, image: Any) -> int:
        if image not in self.teacher_of:
            raise ValueError(
                f'Invalid sample {image!r}: expected the id of one of the {len(self.teacher_of)} '
                f'images with a teacher in {self.file}. Train with the split files for which it '
                "was written, and with 'id' in meta_keys of the pipeline's Pack transform"
            )
        return self.teacher_of[image]


def write_fold_teachers(
    path: str | Path, checkpoints: Sequence[str | Path], images: Sequence[Collection[str]]
) -> Path:
    """Write a file of out-of-fold teachers, used in place of the checkpoint of a frozen member.

    Each image is then taught by its own network: ``frozen=dict(teacher='teachers.json')``, or
    ``teacher_checkpoint='teachers.json'`` in mode ``kd_off``.

    Args:
        path: The file, with the suffix ``.json``.
        checkpoints: Checkpoint, or folder of a run, of each network; stored relative to the file.
        images: Ids of the images that each network teaches, which no other one teaches.

    Raises:
        ValueError: If an image has two teachers, or the arguments differ in length.
    """
    path = Path(path)
    teacher_of: dict[str, int] = {}
    for index, ids in enumerate(images):
        if twice := teacher_of.keys() & set(ids):
            raise ValueError(
                f'Invalid images: expected one teacher for each, got two for {min(twice)!r}'
            )
        teacher_of.update(dict.fromkeys(sorted(ids), index))
    if path.suffix != SUFFIX or len(images) != len(checkpoints) or not checkpoints:
        raise ValueError(
            f'Invalid teachers of folds: expected a file *{SUFFIX} and as many checkpoints as sets '
            f'of images, got {path}, {len(checkpoints)} and {len(images)}'
        )
    relative = [os.path.relpath(one, path.parent) for one in checkpoints]
    content = dict(checkpoints=relative, teacher_of=teacher_of)
    write_atomically(path, json.dumps(content, indent=1).encode())
    return path


def check_fold_teachers(
    members: Collection[str],
    terms: Iterable[TransferTerm],
    augments: Any,
    cache: Any,
    reused: Mapping[str, str],
) -> None:
    """Raise ValueError if members with several networks are used where only one is possible.

    Args:
        members: Names of the members with several networks.
        terms: Terms of the classroom.
        augments: Batch augmentations, which mix images with different teachers.
        cache: Teacher cache.
        reused: ``reused_classifiers`` of the classroom.
    """
    needing = [
        str(term.transfer)
        for term in terms
        if term.transfer.source in members and getattr(term.loss, 'needs_source_classifier', False)
    ]
    found = {
        'batch augmentations': augments,
        'teacher_cache': cache,
        'reused_classifiers': {*reused.values()} & {*members},
        f'the transfer {", ".join(needing)}': needing,
    }
    if members and (problems := [what for what, value in found.items() if value]):
        raise ValueError(
            f'Invalid {" and ".join(problems)}: not supported with a different teacher for each '
            f'image ({", ".join(members)} has a file *{SUFFIX} of teachers of folds)'
        )


def _invalid(path: Path, problem: str) -> str:
    return (
        f'Invalid teachers of folds in {path}: expected checkpoints and the index of one for each '
        f'image, got {problem}. Write the file with write_fold_teachers, or with a suite'
    )
