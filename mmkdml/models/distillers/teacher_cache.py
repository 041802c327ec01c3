"""Cache of the outputs of frozen members on disk."""

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
from mmkdml.models.distillers.terms.transfer_terms import MemberOutputs, TransferTerm, tap_names

HALVES = ('float16', 'bfloat16')
# Relative to the largest value; other batch sizes, kernels and TF32 change values by less.
_TOLERANCE = 1e-3
_LOGITS = ''  # not the name of any tap


class TeacherCache:
    """Cache on disk with which frozen members run once for each image.

    The cache stores the logits and feature maps that transfers use, image by image. The key is a
    SHA-256 of the augmented image, of the member (layers, weights and buffers), the tap, and the
    size and precision of the input, so an entry never belongs to another image, crop, teacher or
    precision. Runs and styles share entries; missing ones are computed and added.

    The first entry of a member that a process reads is computed again and compared, because the key
    does not cover library versions and the code of layers.

    Args:
        path: Path of the file on a local disk; see :class:`KnowledgeStore`. It is created on use.
        limit: Size limit in GiB, above 0. Outputs beyond it are computed each time.
        dtype: ``'float16'`` or ``'bfloat16'`` halve the size and round values to one part in 2048
            or 256; outputs are returned in the precision of the images. Default: the precision of
            the member's outputs, with which losses differ by less than 1e-6.

    Attributes:
        bytes_per_image: Size of the entries of one image by member name.

    Raises:
        ValueError: If the limit or the dtype is invalid; on use, if the file is not such a cache,
            is damaged, or has entries that differ from the member's outputs.
    """

    def __init__(self, path: str | Path, limit: float, dtype: str | None = None) -> None:
        if not (limit > 0 and math.isfinite(limit)):
            raise ValueError(f'limit must be above 0 GiB and finite, got {limit}')
        if dtype not in (None, *HALVES):
            raise ValueError(
                f'dtype must be one of {", ".join(HALVES)}, or None for the dtype of the network; '
                f'got {dtype!r}'
            )
        self.path = Path(path)
        self.limit = limit
        self.dtype = getattr(torch, dtype) if dtype else None
        self._fingerprints: dict[str, str] = {}
        self._verified: set[str] = set()
        self.bytes_per_image: dict[str, int] = {}

    @cached_property
    def store(self) -> KnowledgeStore:
        """The file, opened on first use."""
        return KnowledgeStore(self.path, self.limit)

    def __deepcopy__(self, memo: Any) -> TeacherCache:
        return self  # copies of a classroom share the cache

    def outputs_of(
        self,
        name: str,
        member: nn.Module,
        terms: Sequence[TransferTerm],
        run: Callable[[Tensor], MemberOutputs],
        inputs: Tensor,
    ) -> tuple[MemberOutputs, dict[str, Tensor]]:
        """Return the outputs of a member, which runs on the images that are not cached.

        Returns:
            The outputs, and scalars to log: the share of cached images in [0, 1], and the size of
            the file in GiB.
        """
        used = [tap_names(x.source_tap) for x in terms if x.transfer.source == name]
        taps = sorted({tap for names in used for tap in names or (_LOGITS,)})
        keys = self._keys(self._context(name, member, inputs), inputs, taps)
        known = self.store.find([key for row in keys for key in row])
        missing = [index for index, row in enumerate(keys) if not known.keys() >= {*row}]
        found = [index for index in range(len(keys)) if index not in missing]

        def compute(images: list[int]) -> dict[bytes, Tensor]:
            outputs = run(inputs[images])
            return {
                keys[index][column]: self._to_stored(outputs.select(tap or None)[row])
                for column, tap in enumerate(taps)
                for row, index in enumerate(images)
            }

        if found and taps and name not in self._verified:
            self._verify(name, known, compute(found[:1]))
        if missing:
            new = compute(missing)
            self.store.add(new)
            known = {**new, **known}  # another run may have stored some of the taps
        if name not in self.bytes_per_image:
            self._log_size(name, sum(known[key].nbytes for key in keys[0]))
        maps = {
            tap: self._from_stored(torch.stack([known[row[column]] for row in keys]), inputs)
            for column, tap in enumerate(taps)
        }
        log = {'cached': len(found) / len(keys), 'cache_gib': self.store.size / GIB}
        return (
            MemberOutputs(maps.get(_LOGITS), maps, name),
            {f'{name}.{key}': torch.tensor(value) for key, value in log.items()},
        )

    def _keys(self, context: str, inputs: Tensor, taps: Sequence[str]) -> list[list[bytes]]:
        """Return the keys of the entries, one list over taps for each image."""
        images = [_sha256(image).hexdigest() for image in inputs.cpu()]
        return [
            [hashlib.sha256(repr((context, image, tap)).encode()).digest() for tap in taps]
            for image in images
        ]

    def _context(self, name: str, member: nn.Module, inputs: Tensor) -> str:
        """Describe all that a member's outputs depend on, except for the image."""
        if name not in self._fingerprints:
            self._fingerprints[name] = _fingerprint(member)
        device = inputs.device.type
        autocast = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device)
        settings = (inputs.dtype, tuple(inputs.shape[1:]), device, autocast, self.dtype)
        return f'{self._fingerprints[name]} {settings}'

    def _to_stored(self, row: Tensor) -> Tensor:
        return row.to(self.dtype or row.dtype).cpu().clone(memory_format=torch.contiguous_format)

    def _from_stored(self, rows: Tensor, inputs: Tensor) -> Tensor:
        return rows.to(inputs.device, inputs.dtype if self.dtype else rows.dtype)

    def _verify(
        self, name: str, known: Mapping[bytes, Tensor], computed: Mapping[bytes, Tensor]
    ) -> None:
        for key, row in computed.items():
            tolerance = _TOLERANCE + 8 * torch.finfo(row.dtype).eps
            if (known[key] - row).abs().max() > tolerance * row.abs().max():
                raise ValueError(
                    f'{self.path} is invalid: expected the outputs of the frozen {name}, got other '
                    'values for the same image, such as those of another library version. Delete '
                    'the file, or use another path'
                )
        self._verified.add(name)

    def _log_size(self, name: str, size: int) -> None:
        used = self.store.size / GIB
        room = max(0, int((self.limit - used) * GIB / max(size, 1)))
        print_log(
            f'Teacher cache {self.path}: {size / 1024:.2f} KiB per image of {name}, {used:.3g} of '
            f'{self.limit:g} GiB used, space for {room} more images',
            logger='current',
        )
        self.bytes_per_image[name] = size


def make_cache(
    cache: TeacherCache | Mapping[str, Any] | None, frozen: Mapping[str, Any]
) -> TeacherCache | None:
    """Build the cache of a classroom from its arguments, if there are any.

    Raises:
        ValueError: If there is no frozen member, or see :class:`TeacherCache`.
    """
    if cache is not None and not frozen:
        raise ValueError(
            'teacher_cache needs a frozen member, whose outputs never change; here all members '
            'learn. Leave it out, or freeze the teacher (mode kd_off)'
        )
    return TeacherCache(**cache) if isinstance(cache, Mapping) else cache


def _fingerprint(member: nn.Module) -> str:
    """Compute the SHA-256 of layers, parameters and buffers."""
    digest = hashlib.sha256(repr(member).encode())
    for name, tensor in (*member.named_parameters(), *member.named_buffers()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(_sha256(tensor.detach().cpu()).digest())
    return digest.hexdigest()


def _sha256(tensor: Tensor) -> Any:
    """Hash the values in row-major order, independent of the memory format."""
    return hashlib.sha256(tensor.flatten().view(torch.uint8).numpy().data)
