"""Hook that advances the schedules of transfer weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import IterBasedTrainLoop, Runner
from torch import nn

from mmkdml.engine.resume.schedules import advance
from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers, unwrap_optimizers
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class TransferWeightHook(Hook):
    """Set the weights of transfers that have a schedule, before each iteration.

    A weight depends only on the numbers of finished epochs and iterations, so a resumed run has the
    same weights, bit for bit. The model logs a weight as
    ``<learner>.weight_from_<source>.<knowledge>``.

    For learned weights, the hook warns about weight decay, and passes the scale of the losses in
    mixed precision. It has no effect on other models. The tools add it to every training.
    """

    priority = 'HIGH'  # Before hooks that compute losses.

    def before_train(self, runner: Runner) -> None:
        """Build the schedules.

        Raises:
            ValueError: If a schedule is invalid or counts epochs of iteration-based training, or
                if there are two of these hooks.
        """
        if sum(isinstance(hook, TransferWeightHook) for hook in runner.hooks) > 1:
            raise ValueError(
                'Invalid custom_hooks: expected one TransferWeightHook, got several, which would '
                'advance schedules too fast'
            )
        model = unwrap_model(runner.model)
        terms = [x for x in getattr(model, 'transfer_terms', ()) if x.transfer.schedule]
        if isinstance(runner.train_loop, IterBasedTrainLoop):
            self._check_steps(terms)
        length = len(runner.train_dataloader)
        self._scheduled = [
            (term, term.build_schedule(length, runner.max_epochs, runner.max_iters))
            for term in terms
        ]
        self._advanced = False
        for term, schedule in self._scheduled:
            term.set_weight(schedule.value)
        self._learned = getattr(model, 'learned_weights', None)
        if self._learned is not None:
            self._warn_of_decay(runner, self._learned)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the weights of this iteration."""
        if not self._advanced:  # Other hooks have set the place in the epoch before.
            self._advanced = True
            schedulers = [schedule.schedulers for _, schedule in self._scheduled]
            if schedulers and runner.iter:
                advance(schedulers, runner.epoch, runner.iter, batch_idx)
        for term, schedule in self._scheduled:
            term.set_weight(schedule.value)
        if self._learned is not None:
            wrappers = unwrap_optim_wrappers(runner.optim_wrapper)
            scalers = [getattr(one, 'loss_scaler', None) for one in wrappers]
            self._learned.loss_scale = next((x.get_scale() for x in scalers if x is not None), 1.0)

    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Step the schedules that count iterations."""
        for _term, schedule in self._scheduled:
            schedule.step(by_epoch=False)

    def after_train_epoch(self, runner: Runner) -> None:
        """Step the schedules that count epochs."""
        for _term, schedule in self._scheduled:
            schedule.step(by_epoch=True)

    def _check_steps(self, terms: Sequence[Any]) -> None:
        for term in terms:
            for one in term.transfer.schedule:
                if one.get('by_epoch', True) and not one.get('convert_to_iter_based'):
                    raise ValueError(
                        f'Invalid schedule of the transfer {term.transfer}: training by iterations '
                        'has no epochs, so its weight would never change. Set by_epoch=False, and '
                        'begin, end and other steps in iterations'
                    )

    def _warn_of_decay(self, runner: Runner, learned: nn.Module) -> None:
        own = {id(parameter) for parameter in learned.parameters()}
        for optimizer in unwrap_optimizers(runner.optim_wrapper):
            for group in optimizer.param_groups:
                if group.get('weight_decay') and any(id(x) in own for x in group['params']):
                    runner.logger.warning(
                        f'weight_decay={group["weight_decay"]} also changes the learned weights. '
                        "Set optim_wrapper.paramwise_cfg=dict(custom_keys={'learned_weights': "
                        'dict(decay_mult=0)})'
                    )
                    return
