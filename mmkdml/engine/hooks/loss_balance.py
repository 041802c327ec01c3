"""Hook that logs the gradient norm of each transfer relative to the supervised losses."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.registry import HOOKS

#: Gradient norms by parameter index; parameters without a gradient are missing.
Norms = dict[int, float]

NOT_FINITE_ADVICE = (
    'Lower its weight or the learning rate, clip gradients (optim_wrapper.clip_grad), or train '
    'without mixed precision'
)


@HOOKS.register_module()
class LossBalanceHook(Hook):
    """Log gradient norms of each transfer in its learner, and warn about extreme transfers.

    Let L_sup be the supervised losses of a learner, L_t the loss of a transfer to it, both
    weighted, and w the learner's parameters with a gradient from both; projectors are not part of
    the learner. In the measured steps, the hook logs

    - ``gradient/<learner>.from_<source>.<knowledge>``: L2 norm ||dL_t/dw|| >= 0;
    - ``gradient_ratio/<learner>.from_<source>.<knowledge>``: ||dL_t/dw|| / ||dL_sup/dw||, if the
      latter is not 0. The ratio is proportional to the weight of the transfer;
    - ``gradient/<learner>.supervised``: ||dL_sup/dw|| of all w shared with at least one transfer.

    Norms are computed on the batch of the step, in the main process on its share. This needs an
    additional backward pass through a learner for its supervised losses and for each of its
    transfers. It changes neither weights nor random numbers.

    The main process warns once per loss and epoch (in iteration-based training: once per
    validation interval), if

    - a loss in any step, or a gradient in a measured step, is NaN or infinite. Overflows caused
      only by loss scaling are ignored, unless they affect all measured steps of the epoch;
    - a transfer dominates or has no effect, according to the ratio of its mean norms in the epoch.

    The hook has no effect on networks without transfers.

    Args:
        interval: Measure every ``interval``-th step of an epoch, or the last step of a shorter
            epoch, like a ``LoggerHook`` with this interval. Default: the interval of the run's
            ``LoggerHook``, so that every logged value is new.
        dominance: A transfer dominates if its ratio is above this value, > 1.
        negligible: A transfer has no effect if its ratio is below this value, in [0, 1).

    Raises:
        ValueError: If an argument is out of range; before training, if a learner uses activation
            checkpointing (``with_cp``).
    """

    def __init__(
        self, interval: int | None = None, dominance: float = 10.0, negligible: float = 1e-3
    ) -> None:
        if interval is not None and (type(interval) is not int or interval < 1):
            raise ValueError(
                'Invalid interval: expected an int of at least 1, or None for the interval of '
                f'LoggerHook, got {interval!r}'
            )
        if not isinstance(dominance, int | float) or not dominance > 1:
            raise ValueError(f'Invalid dominance: expected a number above 1, got {dominance!r}')
        if not isinstance(negligible, int | float) or not 0 <= negligible < 1:
            raise ValueError(f'Invalid negligible: expected a number in [0, 1), got {negligible!r}')
        self.interval = interval
        self.dominance = dominance
        self.negligible = negligible
        self._terms: dict[str, Any] = {}  # By the key of their loss.
        self._measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._reported: set[str] = set()  # Non-finite losses of this epoch.

    def before_train(self, runner: Runner) -> None:
        """Find the transfers and their learners.

        Raises:
            ValueError: If a learner uses activation checkpointing.
        """
        self._model = unwrap_model(runner.model)
        self._terms = {term.key: term for term in getattr(self._model, 'transfer_terms', ())}
        learners = dict.fromkeys(term.transfer.learner for term in self._terms.values())
        self._learners: dict[str, nn.Module] = {x: self._model.members[x] for x in learners}
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._every = self.interval or next(iter(loggers), 50)
        if not self._terms:
            runner.logger.info(
                f'{type(self._model).__name__} has no transfers; LossBalanceHook has no effect'
            )
        for name, learner in self._learners.items():
            if any(getattr(module, 'with_cp', False) for module in learner.modules()):
                raise ValueError(
                    'LossBalanceHook does not support activation checkpointing: expected '
                    f'with_cp=False in {name}, got True. Change it or remove the hook'
                )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Measure the losses of this step by a forward hook, if it is due."""
        self._iteration = runner.iter + 1
        loader = runner.train_dataloader
        short = len(loader) <= self._every and self.end_of_epoch(loader, batch_idx)
        if self._terms and (short or self.every_n_inner_iters(batch_idx, self._every)):
            # Inside DistributedDataParallel, before it prepares the backward pass.
            self._handle = self._model.register_forward_hook(partial(self._measure, runner))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Warn about losses that are not finite."""
        # The message hub has already read the values, so this adds no synchronization.
        if self._terms and outputs and not math.isfinite(outputs['loss'].item()):
            values = {key: value.item() for key, value in outputs.items() if key != 'loss'}
            bad = [key for key, value in values.items() if not math.isfinite(value)]
            self._warn_not_finite(runner, 'loss', bad)

    def after_train_epoch(self, runner: Runner) -> None:
        """Warn about extreme transfers of the epoch."""
        self._check_balance(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Warn about extreme transfers since the last validation of iteration-based training."""
        self._check_balance(runner)

    def _measure(
        self, runner: Runner, model: nn.Module, inputs: Any, losses: Mapping[str, Any]
    ) -> None:
        self._handle.remove()
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        total = self._model.parse_losses(losses)[0].item()
        for name, learner in self._learners.items():
            terms = [x for x in self._terms.values() if x.transfer.learner == name]
            active = [term.key for term in terms if getattr(term, 'active', True)]
            if not active:  # by their schedules
                continue
            norms_of = partial(self._norms, losses, learner, scale)
            own = [key for key in losses if key.startswith(f'{name}.') and not self._term_of(key)]
            supervised = norms_of(own)
            shared: set[int] = set()
            for key in active:
                norms = norms_of([key])
                indices = norms.keys() & supervised.keys()
                shared |= indices
                # Without shared parameters, compare with the full supervised gradient.
                pair = _total(norms, indices), _total(supervised, indices or supervised)
                self._measured[key].append(pair)
                if scale <= 1 and math.isfinite(total):  # Otherwise the loss itself is reported.
                    named = zip((key, f'{name}.supervised'), pair, strict=True)
                    bad = [term for term, norm in named if not math.isfinite(norm)]
                    self._warn_not_finite(runner, 'gradient', bad)
                label = key.replace('.loss_from_', '.from_')  # mmengine smooths keys with "loss".
                self._log(runner, f'gradient/{label}', pair[0])
                self._log(runner, f'gradient_ratio/{label}', _ratio(*pair))
            self._log(runner, f'gradient/{name}.supervised', _total(supervised, shared))

    def _log(self, runner: Runner, key: str, value: float) -> None:
        if math.isfinite(value):
            runner.message_hub.update_scalar(f'train/{key}', value)

    def _norms(
        self, losses: Mapping[str, Any], learner: nn.Module, scale: float, keys: Iterable[str]
    ) -> Norms:
        loss, _ = self._model.parse_losses({key: losses[key] for key in keys})
        parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        if not parameters or not getattr(loss, 'requires_grad', False):
            return {}
        # Scaled as in the step, so that small float16 gradients do not underflow.
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(
                scale * loss, parameters, retain_graph=True, allow_unused=True
            )
        reached = {index: g for index, g in enumerate(gradients) if g is not None}
        if not reached:
            return {}
        norms = torch.stack([torch.linalg.vector_norm(g) for g in reached.values()]).tolist()
        return {index: norm / scale for index, norm in zip(reached, norms, strict=True)}

    def _term_of(self, key: str) -> Any:
        """Return the transfer term with this key for its own or its discriminator's loss."""
        return self._terms.get(key) or self._terms.get(key.rpartition('.')[0])

    def _check_balance(self, runner: Runner) -> None:
        for key, pairs in self._measured.items():
            finite = [pair for pair in pairs if math.isfinite(sum(pair))]
            if finite:
                ratio = _ratio(*(sum(norms) for norms in zip(*finite, strict=True)))
                self._warn_extreme(runner, self._terms[key], ratio)
            else:
                self._warn_not_finite(runner, 'gradient', [key])
        self._measured.clear()
        self._reported.clear()

    @master_only
    def _warn_extreme(self, runner: Runner, term: Any, ratio: float) -> None:
        transfer, weight = term.transfer, float(getattr(term, 'weight', term.transfer.weight))
        if math.isnan(ratio) or self.negligible <= ratio <= self.dominance:
            return
        verdict = 'dominates' if ratio > self.dominance else 'has no effect'
        advice = (
            f'A weight of {weight / ratio:.2g} makes them equal'
            if ratio
            else 'Set learner_tap to a module after trained parameters of the learner'
        )
        runner.logger.warning(
            f'The transfer {transfer} {verdict}: in {transfer.learner}, its gradient is '
            f'{ratio:.3g} times that of the supervised losses. {advice}'
        )

    @master_only
    def _warn_not_finite(self, runner: Runner, quantity: str, keys: Iterable[str]) -> None:
        new = [key for key in keys if key not in self._reported]
        self._reported.update(new)
        if new:
            terms = {key: self._term_of(key) for key in new}
            named = [f'{key} ({x.transfer})' if x else key for key, x in terms.items()]
            runner.logger.warning(
                f'Not finite at iteration {self._iteration}: the {quantity} of {", ".join(named)}. '
                f'{NOT_FINITE_ADVICE}'
            )


def _total(norms: Norms, indices: Iterable[int]) -> float:
    return math.hypot(*(norms[index] for index in indices))


def _ratio(norm: float, supervised: float) -> float:
    return norm / supervised if supervised else math.nan
