"""Members that nothing trains."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkdml.models.checkpoints import file_sha256, load_member


class FrozenMembers(dict[str, nn.Module]):
    """Frozen members by name, which a copy of their classroom has in common with it.

    So an average of the weights (mmengine's ``EMAHook``) costs no second teacher. They are copied
    when one of the classrooms goes to another device or dtype.

    Args:
        members: By name; they are loaded, and take part in no training from now on.
        paths: For each member's name its checkpoint file, or None to keep the weights it has.

    Attributes:
        shared: Whether another classroom has the same ones.

    Raises:
        ValueError: If a checkpoint does not fit.
    """

    def __init__(self, members: Mapping[str, nn.Module], paths: Mapping[str, str | None]) -> None:
        super().__init__({name: _freeze(name, members[name], path) for name, path in paths.items()})
        self.shared = False
        self._files = {
            name: dict(path=path, sha256=file_sha256(path))
            for name, path in paths.items()
            if path is not None
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMembers:
        """The same members."""
        self.shared = True
        return copy.copy(self)

    def record(self) -> Tensor | None:
        """Path and SHA-256 of the files, as the bytes of a JSON text; None if there are none."""
        if not self._files:
            return None
        text = json.dumps(self._files, sort_keys=True).encode()
        return torch.tensor(list(text), dtype=torch.uint8)

    def check_record(self, record: Tensor | None) -> None:
        """Checks that the students are continued with the teacher they were trained with.

        Args:
            record: What :meth:`record` gave then.

        Raises:
            ValueError: If they are not.
        """
        recorded = {} if record is None else json.loads(bytes(record.tolist()))
        for name, now in self._files.items():
            then = recorded.get(name, now)
            if then['sha256'] != now['sha256']:
                raise ValueError(
                    f'This checkpoint was trained with the frozen {name} {then["path"]} (SHA-256 '
                    f'{then["sha256"][:12]}...), but now it is {Path(now["path"])} '
                    f'({now["sha256"][:12]}...). Give the file it was trained with'
                )

    def apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> None:
        """Changes all parameters and buffers, as ``nn.Module._apply`` does.

        Args:
            fn: From a tensor to what takes its place.
            args: See ``nn.Module._apply``.
            kwargs: The same.
        """
        for name, member in self.items():
            self[name] = (copy.deepcopy(member) if self.shared else member)._apply(
                fn, *args, **kwargs
            )
        self.shared = False


def _freeze(name: str, member: nn.Module, path: str | None) -> nn.Module:
    if path is not None:
        load_member(member, name, path)
    else:
        print_log(
            f'The frozen member {name} has no checkpoint; it teaches with the weights it was '
            'built with',
            logger='current',
            level=logging.WARNING,
        )
    return member.requires_grad_(False).eval()
