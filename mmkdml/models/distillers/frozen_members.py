"""Frozen members, which copies of a classroom share."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkdml.checkpoint_io import recorded_classes, recorded_meta
from mmkdml.files import file_sha256
from mmkdml.models.checkpoints import load_checkpoint_file, load_network, resolve_checkpoint
from mmkdml.models.distillers.fold_teachers import SUFFIX, FoldTeachers
from mmkdml.models.distillers.pretrained_parts import load_pretrained_parts
from mmkdml.models.inference_copies import InferenceCopies
from mmkdml.names import FINISHED, IDENTITY_FILE
from mmkdml.weight_checks import FROZEN_RECORD

# Key in the record of a checkpoint. Runs of earlier versions do not have it.
_FUSED = 'fused'


class FrozenMembers(dict[str, nn.Module]):
    """Frozen members by name, which copies of their classroom share.

    A copy, such as the averaged model of mmengine's ``EMAHook``, therefore needs no second teacher.
    Moving a classroom to another device or dtype copies members that are shared.

    Args:
        members: All members by name.
        paths: Checkpoint by name of each frozen member: a file, the folder of a run, or None to
            load the pretrained weights that its ``init_cfg`` names. A file of
            :func:`~mmkdml.models.write_fold_teachers` has several, of which each image uses one.
        configs: Config or module of each member by name. A module without a checkpoint keeps its
            weights.
        fuse: Run copies with fused batch normalizations.

    Attributes:
        copies: Copies of the members for inference.
        shared: Whether another classroom uses the same modules.
        classes: Class names recorded in the checkpoint, by member.
        untrained: Names of the submodules whose parameters no file has, by member.
        of_folds: Members with out-of-fold teachers, the first of which predicts.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If a checkpoint does not fit, or holds NaN or infinite weights.
    """

    def __init__(
        self,
        members: Mapping[str, nn.Module],
        paths: Mapping[str, str | None],
        configs: Mapping[str, Any],
        fuse: bool = True,
    ) -> None:
        super().__init__()
        self.copies = InferenceCopies(fuse)
        self.shared = False
        self.classes: dict[str, Any] = {}
        self.untrained: dict[str, list[str]] = {}
        self.of_folds: dict[str, FoldTeachers] = {}
        self._files: dict[str, dict[str, str]] = {}
        for name, path in paths.items():
            for key, file in self._load(name, members[name], path, configs[name]).items():
                self._files[key] = dict(path=file, sha256=file_sha256(file))
            self[name] = members[name].requires_grad_(False).eval()

    def _load(self, name: str, member: nn.Module, path: str | None, config: Any) -> dict[str, str]:
        """Load the weights of a member; return the files by name of the member or its part."""
        if path is not None and str(path).endswith(SUFFIX):
            return self._load_folds(name, member, path)
        if path is not None:
            file = str(resolve_checkpoint(path))
            checkpoint = load_checkpoint_file(file)
            load_network(member, file, name, checkpoint)
            self.classes[name] = recorded_classes(checkpoint)
            _warn_if_unfinished(name, Path(path), file, recorded_meta(checkpoint))
            return {name: file}
        if isinstance(config, nn.Module):
            print_log(
                f'The frozen member {name} has no checkpoint and keeps the weights of the module '
                'that was passed',
                logger='current',
                level=logging.WARNING,
            )
            return {}
        files, missing = load_pretrained_parts(member, name)
        if name in files:
            self.classes[name] = recorded_classes(load_checkpoint_file(files[name]))
        if missing:
            self.untrained[name] = missing
        return files

    def _load_folds(self, name: str, member: nn.Module, path: str) -> dict[str, str]:
        teachers = self.of_folds[name] = FoldTeachers.read(path, member)
        files = {f'{name} images': path}
        for index, network in enumerate(teachers.networks):
            key = f'{name} {index}' if index else name
            files[key] = self._load(name, network, teachers.checkpoints[index], None)[name]
            network.requires_grad_(False).eval()
        return files

    @property
    def files(self) -> dict[str, str]:
        """Checkpoint files by name of a member or of a part of one."""
        return {key: file['path'] for key, file in self._files.items()}

    def check_trained(self) -> None:
        """Raise ``ValueError`` if a member has random weights."""
        for name, parts in self.untrained.items():
            raise ValueError(
                f'The frozen {name} has no weights for {", ".join(parts)}: expected a trained '
                f'network, got random parameters. Set model.frozen.{name} (mode kd_off: '
                "model.teacher_checkpoint) to its checkpoint or its run's folder, or set "
                "init_cfg=dict(type='Pretrained', checkpoint=FILE) of the member"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMembers:
        """Return a shallow copy that shares the members."""
        self.shared = True
        return copy.copy(self)

    def record(self) -> Tensor | None:
        """Return paths and SHA-256 of the files as bytes of JSON; None if there are no files."""
        if not self._files:
            return None
        files = {key: {**file, _FUSED: self.copies.enabled} for key, file in self._files.items()}
        text = json.dumps(files, sort_keys=True).encode()
        return torch.tensor(list(text), dtype=torch.uint8)

    def check_record(self, record: Tensor | None) -> None:
        """Check that a checkpoint was trained with the same frozen members.

        If it was trained without fused batch normalizations, they are no longer fused.

        Raises:
            ValueError: If a file differs, or the record is invalid.
        """
        try:
            recorded = {} if record is None else json.loads(bytes(record.tolist()))
            hashes = {name: (one['path'], one['sha256'][:64]) for name, one in recorded.items()}
            fused = all(one.get(_FUSED, False) for one in recorded.values())
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f'The record of the frozen members in this checkpoint is invalid: {error}'
            ) from error
        for name, now in self._files.items():
            path, sha256 = hashes.get(name, (now['path'], now['sha256']))
            if sha256 != now['sha256']:
                raise ValueError(
                    f'Invalid frozen {name}: expected the file that this checkpoint was trained '
                    f'with, {path} (SHA-256 {sha256[:12]}...), got {Path(now["path"])} '
                    f'({now["sha256"][:12]}...). Use the original file'
                )
        if self.copies.enabled and not fused:
            print_log(
                f'Batch normalizations of the frozen {", ".join(self)} are not fused, as in the '
                'training of this checkpoint, so that it can be resumed exactly',
                logger='current',
            )
            self.copies.enabled = False

    def apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> None:
        """Apply a function to all parameters and buffers, like ``nn.Module._apply``."""

        def applied(member: nn.Module) -> nn.Module:
            return (copy.deepcopy(member) if self.shared else member)._apply(fn, *args, **kwargs)

        self.copies = InferenceCopies(self.copies.enabled)
        for name, member in self.items():
            self[name] = applied(member)
        self.of_folds = {
            name: replace(one, networks=(self[name], *map(applied, one.networks[1:])))
            for name, one in self.of_folds.items()
        }
        self.shared = False


class WithFrozenMembers(BaseModel):
    """Model with frozen members in the attribute ``_frozen``, which are not submodules.

    ``_copies`` holds copies of the trained members with which they predict.
    """

    _frozen: FrozenMembers
    _copies: InferenceCopies

    @property
    def frozen_names(self) -> tuple[str, ...]:
        """Names of the frozen members."""
        return tuple(self._frozen)

    @property
    def frozen_files(self) -> dict[str, str]:
        """Checkpoint files by name of a frozen member or of a part of one."""
        return self._frozen.files

    @property
    def frozen_classes(self) -> dict[str, Any]:
        """Class names recorded in the checkpoints of frozen members."""
        return self._frozen.classes

    def check_frozen_weights(self) -> None:
        """Raise ``ValueError`` if a frozen member has random weights."""
        self._frozen.check_trained()

    def drop_copies(self) -> None:
        """Free the copies of trained members; call it after hidden changes of their weights."""
        self._copies.drop()

    def train(self, mode: bool = True) -> WithFrozenMembers:
        """Set the mode of the trained members; the frozen ones stay in eval mode."""
        self._copies.drop()
        super().train(mode)
        for member in self._frozen.values():
            member.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> nn.Module:
        """Also apply the function to the frozen members, e.g. to move them to another device."""
        self._copies.drop()
        self._frozen.apply(fn, *args, **kwargs)
        return super()._apply(fn, *args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if (record := self._frozen.record()) is not None:
            destination[prefix + FROZEN_RECORD] = record

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        self._frozen.check_record(state_dict.pop(prefix + FROZEN_RECORD, None))
        super()._load_from_state_dict(state_dict, prefix, *args)


def _warn_if_unfinished(name: str, run: Path, file: str, meta: Mapping[str, Any]) -> None:
    """Warn of weights from the folder of a run that has not reached its end."""
    try:
        identity = json.loads((run / IDENTITY_FILE).read_bytes())
    except (OSError, ValueError, RecursionError):  # a file, or the folder of another program
        return
    if isinstance(identity, dict) and FINISHED not in identity:
        print_log(
            f'The frozen member {name} has the weights of {file} (epoch {meta.get("epoch")}, '
            f'iteration {meta.get("iter")}), but the run in {run} is not finished. Finish it '
            'first, or set the path of a file to use these weights without this warning',
            logger='current',
            level=logging.WARNING,
        )
