"""A batch whose loss is no number does nothing to the weights."""

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

from mmkdml.engine.distributed import unwrap_model
from mmkdml.files import own_file, write_atomically
from mmkdml.registry import HOOKS
from mmkdml.weight_checks import find_non_finite

STOP, SKIP = POLICIES = ('stop', 'skip')
FOLDER = 'non_finite'
_ADVICE = (
    'Mend the data, lower the learning rate, clip gradients (optim_wrapper.clip_grad), or train '
    'without mixed precision; --resume goes on from the checkpoint before'
)
# Of the message hub, so that a resumed run counts on
_SKIPPED, _IN_A_ROW = 'skipped_batches', 'skipped_in_a_row'


@HOOKS.register_module()
class NonFiniteLossHook(Hook):
    """Looks at the loss of each step before it is followed back: is it a finite number?

    If it is not, ``<work_dir>/non_finite/iter_<n>.json`` tells the losses and the images of the
    batch, and which of them hold numbers that are not finite themselves. Then

    - policy ``'stop'`` ends the training, with the weights as they were before this step;
    - policy ``'skip'`` goes on without a step: no gradient comes of the batch, and buffers, such as
      running statistics, get back what they held before it. ``train/skipped_batches`` counts. With
      gradients accumulated over several batches, the others' share stays what it is. With dynamic
      loss scaling the step is left to the scaler, which skips it, too, and lowers its scale.

    What overflows by loss scaling alone is no case of this hook, but the scaler's. All processes
    decide alike. A step whose gradient is not finite though its loss is spoils the weights: the
    next loss tells, and no checkpoint of such weights is saved.

    It costs one look at a number per step; a GPU is waited for, after the forward, once more than
    mmengine waits for it after each step. With ``'skip'``, buffers are copied before each.

    Args:
        policy: ``'stop'`` or ``'skip'``.
        max_skips: With ``'skip'``, how many batches in a row may be skipped before the training
            stops after all, at least 0.

    Raises:
        ValueError: If an argument is another.
    """

    priority = 'LOWEST'  # another hook's look at the losses comes first

    def __init__(self, policy: str = STOP, max_skips: int = 10) -> None:
        if policy not in POLICIES:
            raise ValueError(f'policy must be one of {", ".join(POLICIES)}; got {policy!r}')
        if max_skips < 0:
            raise ValueError(f'max_skips must be at least 0, got {max_skips}')
        self.policy = policy
        self.max_skips = max_skips

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Has the losses of this step looked at where the model hands them over."""
        model = unwrap_model(runner.model)
        if self.policy == SKIP:
            self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        # At the model itself, DistributedDataParallel has not yet prepared for the way back.
        self._handle = model.register_forward_hook(partial(self._look, runner, data_batch))

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Refuses to save weights that are no numbers.

        Raises:
            ValueError: If a tensor is invalid; see :func:`mmkdml.weight_checks.check_finite`.
        """
        parameters = {name for name, _ in unwrap_model(runner.model).named_parameters()}
        spoilt = find_non_finite(checkpoint['state_dict'], parameters)
        spoilt += find_non_finite(checkpoint.get('ema_state_dict', {}))
        if spoilt:
            raise ValueError(
                f'The weights are not finite after iteration {checkpoint["meta"]["iter"]} '
                f'({spoilt[0]}, and {len(spoilt) - 1} other tensors), so they are not saved; the '
                f'checkpoints before are as they were. {_ADVICE}'
            )

    def _look(
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
            skipped = f', after {in_a_row} such batches that were skipped' if in_a_row else ''
            raise ValueError(f'{text}. Its step was not made{skipped}. {_ADVICE}')
        count = hub.get_info(_SKIPPED, 0) + 1
        hub.update_info(_SKIPPED, count)
        hub.update_info(_IN_A_ROW, in_a_row + 1)
        hub.update_scalar(f'train/{_SKIPPED}', count)
        runner.logger.warning(f'{text}. It is skipped')
        for buffer, before in self._buffers:
            buffer.data.copy_(before)  # so that a scaler's way back does not mind the change
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        if scaler is not None and scaler.is_enabled():
            return None  # it refuses a step without gradients
        # As they are for the log, and with no way back.
        return {key: _leaves(value) for key, value in losses.items()}


def _leaves(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().requires_grad_()
    return [part.detach().requires_grad_() for part in value]


def _report(runner: Runner, batch: Any, values: Mapping[str, torch.Tensor]) -> Path:
    """Writes what all processes know of their batches."""
    content = batch if isinstance(batch, Mapping) else {}
    samples = [
        {key: sample.get(key) for key in ('id', 'img_path')}
        | dict(finite=bool(torch.isfinite(torch.as_tensor(image)).all()))
        for image, sample in zip(
            content.get('inputs', ()), content.get('data_samples', ()), strict=False
        )
    ]
    losses = {key: value.item() for key, value in values.items()}
    # JSON has no word for what is not finite.
    told = {key: x if math.isfinite(x) else str(x) for key, x in losses.items()}
    batches = all_gather_object(dict(losses=told, samples=samples))
    path = Path(runner.work_dir) / FOLDER / f'iter_{runner.iter + 1}.json'
    if is_main_process():
        own_file(runner.work_dir, FOLDER, path.name)
        content = dict(epoch=runner.epoch + 1, iteration=runner.iter + 1, batches=batches)
        write_atomically(path, json.dumps(content, indent=1, default=str).encode())
    return path
