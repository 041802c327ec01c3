"""Stop, or skip the batch, when a loss is NaN or infinite."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_gather_object, all_reduce, is_distributed, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.files import own_file, write_atomically
from mmkdml.registry import HOOKS
from mmkdml.weight_checks import find_non_finite

STOP, SKIP = POLICIES = ('stop', 'skip')
FOLDER = 'non_finite'
_ADVICE = (
    'Fix the data, lower the learning rate, clip gradients (optim_wrapper.clip_grad), or train '
    'without mixed precision; --resume continues from the last checkpoint'
)
# Keys of the message hub, which checkpoints contain, so that a resumed run continues counting.
_SKIPPED, _IN_A_ROW = 'skipped_batches', 'skipped_in_a_row'


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Stop the training, or skip the batch, if a loss is NaN or infinite before the backward pass.

    The losses and images of the batch are saved in ``<work_dir>/non_finite/iter_<n>.json``, with a
    flag for images that contain non-finite values. Then

    - policy ``'stop'`` raises an error, and weights keep their values from before this step;
    - policy ``'skip'`` discards the gradient of the batch and restores buffers, such as running
      statistics. ``train/skipped_batches`` is logged. With gradient accumulation, the other batches
      contribute as usual. With dynamic loss scaling, the scaler skips the step and reduces the
      scale.

    Overflows caused only by loss scaling are handled by the scaler. All processes take the same
    decision. If a gradient is not finite but its loss is, the weights become invalid: the next loss
    triggers the policy, and such weights are never saved.

    The check reads one number per step; on a GPU this adds a synchronization after the forward
    pass. With ``'skip'``, buffers are copied before each step.

    Args:
        policy: ``'stop'`` or ``'skip'``.
        max_skips: Maximum number of consecutive batches to skip before the training stops, at
            least 0.

    Raises:
        ValueError: If an argument is invalid; during training, if a loss or a saved weight is not
            finite.
    """

    priority = 'LOWEST'  # After hooks that use the losses.

    def __init__(self, policy: str = STOP, max_skips: int = 10) -> None:
        if policy not in POLICIES:
            raise ValueError(
                f'Invalid policy: expected one of {", ".join(POLICIES)}, got {policy!r}'
            )
        if max_skips < 0:
            raise ValueError(f'Invalid max_skips: expected at least 0, got {max_skips}')
        self.policy = policy
        self.max_skips = max_skips

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Check the losses of this step by a forward hook."""
        model = unwrap_model(runner.model)
        if self.policy == SKIP:
            self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        # Inside DistributedDataParallel, before it prepares the backward pass.
        self._handle = model.register_forward_hook(partial(self._check, runner, data_batch))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Raise an error instead of saving weights that are NaN or infinite.

        Raises:
            ValueError: If a tensor is not finite; see :func:`mmkdml.weight_checks.check_finite`.
        """
        parameters = {name for name, _ in unwrap_model(runner.model).named_parameters()}
        invalid = find_non_finite(checkpoint['state_dict'], parameters)
        invalid += find_non_finite(checkpoint.get('ema_state_dict', {}))
        if invalid:
            raise ValueError(
                f'The weights are not finite after iteration {checkpoint["meta"]["iter"]} '
                f'({invalid[0]}, and {len(invalid) - 1} other tensors) and are not saved; earlier '
                f'checkpoints are intact. {_ADVICE}'
            )

    def _check(
        self, runner: Runner, batch: Any, model: Any, _: Any, losses: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        self._handle.remove()
        total, values = model.parse_losses(losses)
        bad = (~torch.isfinite(torch.as_tensor(total).detach())).int()
        if is_distributed():
            all_reduce(bad, 'max')
        hub = runner.message_hub
        in_a_row = hub.get_info(_IN_A_ROW, 0)
        if not bad:
            if in_a_row:
                hub.update_info(_IN_A_ROW, 0)
            return None
        text = f'The loss of iteration {runner.iter + 1} is not finite; the images and losses of '
        text += f'the batch are in {_report(runner, batch, values)}'
        if self.policy == STOP or in_a_row == self.max_skips:
            skipped = f' after {in_a_row} skipped batches' if in_a_row else ''
            raise ValueError(f'{text}. Training stops before the step{skipped}. {_ADVICE}')
        count = hub.get_info(_SKIPPED, 0) + 1
        hub.update_info(_SKIPPED, count)
        hub.update_info(_IN_A_ROW, in_a_row + 1)
        hub.update_scalar(f'train/{_SKIPPED}', count)
        runner.logger.warning(f'{text}. The batch is skipped')
        for buffer, before in self._buffers:
            buffer.data.copy_(before)  # Hidden from autograd: a scaler needs the backward pass.
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            return None  # The scaler needs gradients to skip the step.
        # Same values for the log, detached from the model.
        return {key: _leaves(value) for key, value in losses.items()}


def _leaves(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().requires_grad_()
    return [part.detach().requires_grad_() for part in value]


def _report(runner: Runner, batch: Any, values: Mapping[str, torch.Tensor]) -> Path:
    """Write the losses and images of all processes' batches to a file."""
    content = batch if isinstance(batch, Mapping) else {}
    samples = [
        {key: sample.get(key) for key in ('id', 'img_path')}
        | dict(finite=bool(torch.isfinite(torch.as_tensor(image)).all()))
        for image, sample in zip(
            content.get('inputs', ()), content.get('data_samples', ()), strict=False
        )
    ]
    losses = {key: value.item() for key, value in values.items()}
    # JSON has no NaN and infinity.
    plain = {key: x if math.isfinite(x) else str(x) for key, x in losses.items()}
    batches = all_gather_object(dict(losses=plain, samples=samples))
    path = Path(runner.work_dir) / FOLDER / f'iter_{runner.iter + 1}.json'
    if is_main_process():
        own_file(runner.work_dir, FOLDER, path.name)
        content = dict(epoch=runner.epoch + 1, iteration=runner.iter + 1, batches=batches)
        write_atomically(path, json.dumps(content, indent=1, default=str).encode())
    return path
