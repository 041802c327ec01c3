"""What frozen members say of an image, computed once."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkdml.models.distillers.knowledge_store import GIB, KnowledgeStore
from mmkdml.models.distillers.transfer_terms import MemberOutputs, TransferTerm, tap_names

HALVES = ('float16', 'bfloat16')
# Of the largest value: what another batch size, another kernel or TF32 may change.
_TOLERANCE = 1e-3
_LOGITS = ''  # no tap is called so


class TeacherCache:
    """Keeps the knowledge of frozen members on disk, so that they run once for each image.

    What is kept are the logits and maps that transfers take from them, image by image. The key is a
    SHA-256 of the image *as the networks see it*, which is its pixels and its augmentation at once,
    of the member (its layers, weights and buffers), the tap, the input's size and precision. So
    nothing that is found can be of another image, crop, teacher or precision; runs and styles share
    what they have in common, and what is not found is computed and added.

    The first thing found in a process is computed once more and compared, lest something outside
    of the key (a library, the code of a layer) has changed what a member says.

    Args:
        path: The file, on a disk of this machine; see :class:`KnowledgeStore`.
        limit: GiB that it may take, above 0. What has no room is computed each time.
        dtype: None: as the member says it, so that losses differ by less than 1e-6 (of sums in
            another order). ``'float16'``, ``'bfloat16'``: half the room, values rounded to a part
            in 2048 or 256; what comes back has the precision of the images.

    Attributes:
        bytes_per_image: What is kept of an image, by the name of each member that was asked.

    Raises:
        ValueError: If the limit or the dtype cannot be; on use, if the file is not such a cache, is
            damaged, or holds something else than what the member says.
    """

    def __init__(self, path: str | Path, limit: float, dtype: str | None = None) -> None:
        if not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f'limit must be above 0 GiB and finite, got {limit}')
        if dtype not in (None, *HALVES):
            raise ValueError(
                f'dtype must be one of {", ".join(HALVES)}, or None for that of the network; got '
                f'{dtype!r}'
            )
        self.path = Path(path)
        self.limit = limit
        self.dtype = getattr(torch, dtype) if dtype else None
        self._fingerprints: dict[str, str] = {}
        self._verified: set[str] = set()
        self.bytes_per_image: dict[str, int] = {}

    @cached_property
    def store(self) -> KnowledgeStore:
        """The file."""
        return KnowledgeStore(self.path, self.limit)

    def __deepcopy__(self, memo: Any) -> TeacherCache:
        return self  # a copy of a classroom has the same teachers

    def observe(
        self,
        name: str,
        member: nn.Module,
        terms: Sequence[TransferTerm],
        look: Callable[[Tensor], MemberOutputs],
        inputs: Tensor,
    ) -> tuple[MemberOutputs, dict[str, Tensor]]:
        """What a member shows; it runs on the images alone of which that is not known.

        Args:
            name: Its name.
            member: The network.
            terms: All terms; what those take that have it as their source is kept.
            look: One forward of it.
            inputs: Preprocessed images (N, 3, H, W).

        Returns:
            The observation, and for the log the share of images found, in [0, 1], and the size of
            the file in GiB.
        """
        taken = [tap_names(x.source_tap) for x in terms if x.transfer.source == name]
        taps = sorted({tap for names in taken for tap in names or (_LOGITS,)})
        keys = self._keys(self._context(name, member, inputs), inputs, taps)
        known = self.store.find([key for row in keys for key in row])
        missing = [place for place, row in enumerate(keys) if not known.keys() >= {*row}]
        found = [place for place in range(len(keys)) if place not in missing]

        def said(places: list[int]) -> dict[bytes, Tensor]:
            shown = look(inputs[places])
            return {
                keys[place][column]: self._kept(shown.select(tap or None)[row])
                for column, tap in enumerate(taps)
                for row, place in enumerate(places)
            }

        if found and taps and name not in self._verified:
            self._verify(name, known, said(found[:1]))
        if missing:
            new = said(missing)
            self.store.add(new)
            known = {**new, **known}  # another run may have added one tap and not the other
        if name not in self.bytes_per_image:
            self._tell(name, sum(known[key].nbytes for key in keys[0]))
        maps = {
            tap: self._given(torch.stack([known[row[column]] for row in keys]), inputs)
            for column, tap in enumerate(taps)
        }
        measures = {'cached': len(found) / len(keys), 'cache_gib': self.store.size / GIB}
        return (
            MemberOutputs(maps.get(_LOGITS), maps, name),
            {f'{name}.{key}': torch.tensor(value) for key, value in measures.items()},
        )

    def _keys(self, context: str, inputs: Tensor, taps: Sequence[str]) -> list[list[bytes]]:
        """For each image one for each tap."""
        images = [_sha256(image).hexdigest() for image in inputs.cpu()]
        return [
            [hashlib.sha256(repr((context, image, tap)).encode()).digest() for tap in taps]
            for image in images
        ]

    def _context(self, name: str, member: nn.Module, inputs: Tensor) -> str:
        """All that what is said of an image depends on but for the image."""
        if name not in self._fingerprints:
            self._fingerprints[name] = _fingerprint(member)
        device = inputs.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        facts = (inputs.dtype, tuple(inputs.shape[1:]), device, autocast, self.dtype)
        return f'{self._fingerprints[name]} {facts}'

    def _kept(self, row: Tensor) -> Tensor:
        return row.to(self.dtype or row.dtype).cpu().clone(memory_format=torch.contiguous_format)

    def _given(self, rows: Tensor, inputs: Tensor) -> Tensor:
        return rows.to(inputs.device, inputs.dtype if self.dtype else rows.dtype)

    def _verify(
        self, name: str, known: Mapping[bytes, Tensor], said: Mapping[bytes, Tensor]
    ) -> None:
        for key, row in said.items():
            least = _TOLERANCE + 8 * torch.finfo(row.dtype).eps
            if (known[key] - row).abs().max() > least * row.abs().max():
                raise ValueError(
                    f'What {self.path} has of the frozen {name} is not what it says now of the '
                    'same image: made by another version of a library or of its code? Delete it, '
                    'or name another file'
                )
        self._verified.add(name)

    def _tell(self, name: str, size: int) -> None:
        used = self.store.size / GIB
        room = max(0, int((self.limit - used) * GIB / max(size, 1)))
        print_log(
            f'The knowledge of {name} takes {size / 1024:.2f} KiB for each image. {self.path} has '
            f'{used:.3g} of {self.limit:g} GiB, and room for {room} images more',
            logger='current',
        )
        self.bytes_per_image[name] = size


def make_cache(
    cache: TeacherCache | Mapping[str, Any] | None, frozen: Mapping[str, Any]
) -> TeacherCache | None:
    """A classroom's cache, from its arguments if need be.

    Raises:
        ValueError: If there is no frozen member that it could serve, or see :class:`TeacherCache`.
    """
    if cache is not None and not frozen:
        raise ValueError(
            'teacher_cache keeps what frozen members say, for that stays the same; here all '
            'members learn. Leave it out, or freeze the teacher (mode kd_off)'
        )
    return TeacherCache(**cache) if isinstance(cache, Mapping) else cache


def _fingerprint(member: nn.Module) -> str:
    """SHA-256 of layers, parameters and buffers."""
    digest = hashlib.sha256(repr(member).encode())
    for name, tensor in (*member.named_parameters(), *member.named_buffers()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_sha256(tensor.detach().cpu()).digest())
    return digest.hexdigest()


def _sha256(tensor: Tensor) -> Any:
    """Of the values' bytes, row by row, however they lie in memory."""
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data)
