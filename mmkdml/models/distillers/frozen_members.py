"""Frozen members."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkdml.files import file_sha256
from mmkdml.models.checkpoints import load_member
from mmkdml.models.distillers.pretrained_parts import load_pretrained_parts


class FrozenMembers(dict[str, nn.Module]):
    """Frozen members by name, which a copy of their classroom shares.

    An average of the weights (mmengine's ``EMAHook``) therefore needs no second teacher. They are
    copied when one of the classrooms is moved to another device or dtype.

    Args:
        members: By name; they are loaded, and not trained from then on.
        paths: For each member's name its checkpoint file, or None to load what its ``init_cfg``
            names.
        built_before: Names of the members that were passed as modules. Without a file they keep
            their weights.

    Attributes:
        shared: Whether another classroom uses the same modules.
        untrained: For each member that has parameters without weights from a file, where these
            parameters are.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a checkpoint does not fit, or holds NaN or infinite weights.
    """

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        paths: Mapping[str, str | None],
        built_before: Container[str] = (),
    ) -> None:
        super().__init__()
        self.shared = False
        self.untrained: dict[str, list[str]] = {}
        self._files: dict[str, dict[str, str]] = {}
        for name, path in paths.items():
            member = members[name]
            files = {name: path} if path is not None else {}
            if path is not None:
                load_member(member, name, path)
            elif name in built_before:
                print_log(
                    f'The frozen member {name} has no checkpoint; it keeps the weights that it was '
                    'passed with',
                    logger='current',
                    level=logging.WARNING,
                )
            else:
                found, missing = load_pretrained_parts(member, name)
                files.update(found)
                if missing:
                    self.untrained[name] = missing
            for key, file in files.items():
                self._files[key] = dict(path=file, sha256=file_sha256(file))
            self[name] = member.requires_grad_(False).eval()

    @property
    def files(self) -> dict[str, str]:
        """Files that weights were loaded from, by member or by part of one."""
        return {key: file['path'] for key, file in self._files.items()}

    def check_trained(self) -> None:
        """Raise ``ValueError`` if a member has random weights, with which it must not teach."""
        for name, parts in self.untrained.items():
            raise ValueError(
                f'The frozen {name} has no weights for {", ".join(parts)}: expected a trained '
                f'network, got random parameters. Set model.frozen.{name} (mode kd_off: '
                "model.teacher_checkpoint) to its checkpoint or its run's folder, or give the "
                "member init_cfg=dict(type='Pretrained', checkpoint=FILE)"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMembers:
        """Return a shallow copy that shares the members."""
        self.shared = True
        return copy.copy(self)

    def record(self) -> Tensor | None:
        """Return path and SHA-256 of the files as bytes of JSON; None without files."""
        if not self._files:
            return None
        text = json.dumps(self._files, sort_keys=True).encode()
        return torch.tensor(list(text), dtype=torch.uint8)

    def check_record(self, record: Tensor | None) -> None:
        """Check that the students are resumed with the teacher they were trained with.

        Args:
            record: Return value of :meth:`record` at that time.

        Raises:
            ValueError: If a file differs, or the record is invalid.
        """
        try:
            recorded = {} if record is None else json.loads(bytes(record.tolist()))
            hashes = {name: (one['path'], one['sha256'][:64]) for name, one in recorded.items()}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'The record of the frozen members in this checkpoint is invalid: {error}'
            ) from error
        for name, now in self._files.items():
            path, sha256 = hashes.get(name, (now['path'], now['sha256']))
            if sha256 != now['sha256']:
                raise ValueError(
                    f'This checkpoint was trained with the frozen {name} {path} (SHA-256 '
                    f'{sha256[:12]}...), but now it is {Path(now["path"])} '
                    f'({now["sha256"][:12]}...). Give the file it was trained with'
                )

    def apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> None:
        """Change all parameters and buffers, like ``nn.Module._apply``.

        Args:
            fn: Function from a tensor to its replacement.
            args: See ``nn.Module._apply``.
            kwargs: The same.
        """
        for name, member in self.items():
            self[name] = (copy.deepcopy(member) if self.shared else member)._apply(
                fn, *args, **kwargs
            )
        self.shared = False
