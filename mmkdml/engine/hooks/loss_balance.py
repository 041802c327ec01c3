"""How hard each transfer pulls at its learner, beside the truth."""

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

#: Norms of a gradient by the places of the parameters it reaches.
Norms = dict[int, float]

NOT_FINITE_ADVICE = (
    'Lower its weight or the learning rate, clip gradients (optim_wrapper.clip_grad), or train '
    'without mixed precision'
)


@HOOKS.register_module()
class LossBalanceHook(Hook):
    """Logs the norm of each transfer's gradient in its learner, and warns when it is out of hand.

    What the supervised losses L_sup of a learner and the loss L_t of a transfer to it share are the
    learner's own parameters w that get a gradient of both; a projector's are not the learner's.
    With all weights of the plan included, it logs in the measured steps

    - ``gradient/<learner>.from_<source>.<knowledge>``: ||dL_t/dw||, L2, >= 0;
    - ``gradient_ratio/<learner>.from_<source>.<knowledge>``: ||dL_t/dw|| / ||dL_sup/dw||, if the
      latter is not 0; twice the weight is twice the ratio;
    - ``gradient/<learner>.supervised``: ||dL_sup/dw|| of all w shared with at least one transfer.

    They are those of the step's batch, in the main process those of its share. The step's own
    losses are followed back before the step does so: one more way back through a learner for its
    supervised losses and for each of its transfers. Neither weights nor random numbers come out
    differently.

    The main process warns, once per term and epoch (in a training by iterations: between two
    validations), if

    - a loss is not finite, which is looked at in every step, or a gradient is not, in the measured
      ones. What overflows by loss scaling is a measurement lost and no more, unless none is left;
    - a transfer dominates or has no effect, by the ratio of its mean norms in the epoch.

    Networks that learn from no other are left alone.

    Args:
        interval: The steps that are measured are those that a logger of this interval logs: each
            ``interval``-th of an epoch, or the last one of an epoch that is not longer. Default:
            as the run's ``LoggerHook``, with which every logged value is a new one.
        dominance: A transfer dominates if its ratio is above this, > 1.
        negligible: A transfer has no effect if its ratio is below this, in [0, 1).

    Raises:
        ValueError: If a number is out of its range; before the training, if a network computes
            parts of its forward anew on the way back (``with_cp``).
    """

    def __init__(
        self, interval: int | None = None, dominance: float = 10.0, negligible: float = 1e-3
    ) -> None:
        if interval is not None and (type(interval) is not int or interval < 1):
            raise ValueError(
                f'interval must be at least 1, or None for that of the logger; got {interval!r}'
            )
        if not isinstance(dominance, int | float) or not dominance > 1:
            raise ValueError(
                'dominance, how many times the supervised gradient is too much, must be above 1; '
                f'got {dominance!r}'
            )
        if not isinstance(negligible, int | float) or not 0 <= negligible < 1:
            raise ValueError(
                'negligible, what part of the supervised gradient is too little, must be at least '
                f'0 and below 1; got {negligible!r}'
            )
        self.interval = interval
        self.dominance = dominance
        self.negligible = negligible
        self._terms: dict[str, Any] = {}  # by the keys of their losses
        self._measured: dict[str, list[tuple[float, float]]] = defaultdict(list)
        self._named: set[str] = set()  # what was said to be not finite

    def before_train(self, runner: Runner) -> None:
        """Looks for transfers.

        Raises:
            ValueError: If there are some, and a network has ``with_cp``.
        """
        self._model = unwrap_model(runner.model)
        self._terms = {term.key: term for term in getattr(self._model, 'transfer_terms', ())}
        learners = dict.fromkeys(term.transfer.learner for term in self._terms.values())
        self._learners: dict[str, nn.Module] = {x: self._model.members[x] for x in learners}
        loggers = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        self._every = self.interval or next(iter(loggers), 50)
        if not self._terms:
            runner.logger.info(
                f'{type(self._model).__name__} has no transfers; LossBalanceHook has nothing to do'
            )
        for name, learner in self._learners.items():
            if any(getattr(module, 'with_cp', False) for module in learner.modules()):
                raise ValueError(
                    'LossBalanceHook cannot see the gradients of what is computed anew on the way '
                    f'back: set with_cp=False in {name}, or leave the hook out'
                )

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Has the losses of this step measured, if it is one of those."""
        self._iteration = runner.iter + 1
        loader = runner.train_dataloader
        short = len(loader) <= self._every and self.end_of_epoch(loader, batch_idx)
        if self._terms and (short or self.every_n_inner_iters(batch_idx, self._every)):
            # At the model itself, DistributedDataParallel has not yet prepared for its way back.
            self._handle = self._model.register_forward_hook(partial(self._measure, runner))

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Warns of losses that are not finite.

        Args:
            runner: the runner.
            batch_idx: not used.
            data_batch: not used.
            outputs: the logged losses, and their sum ``loss``.
        """
        # The message hub has read all of them already, so this waits for no device.
        if self._terms and outputs and not math.isfinite(outputs['loss'].item()):
            values = {key: value.item() for key, value in outputs.items() if key != 'loss'}
            bad = [key for key, value in values.items() if not math.isfinite(value)]
            self._warn_not_finite(runner, 'loss', bad)

    def after_train_epoch(self, runner: Runner) -> None:
        """Judges the balance in the epoch."""
        self._judge(runner)

    def before_val_epoch(self, runner: Runner) -> None:
        """Judges the balance since the last validation, where epochs are not counted."""
        self._judge(runner)

    def _measure(
        self, runner: Runner, model: nn.Module, inputs: Any, losses: Mapping[str, Any]
    ) -> None:
        self._handle.remove()
        scaler = getattr(runner.optim_wrapper, 'loss_scaler', None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        total = self._model.parse_losses(losses)[0].item()
        for name, learner in self._learners.items():
            norms_of = partial(self._norms, losses, learner, scale)
            own = [key for key in losses if key.startswith(f'{name}.') and not self._term_of(key)]
            supervised = norms_of(own)
            shared: set[int] = set()
            for key in [k for k, x in self._terms.items() if x.transfer.learner == name]:
                norms = norms_of([key])
                places = norms.keys() & supervised.keys()
                shared |= places
                # What shares nothing is compared with all that the supervised losses reach.
                pair = _total(norms, places), _total(supervised, places or supervised)
                self._measured[key].append(pair)
                if scale <= 1 and math.isfinite(total):  # else the loss itself is named
                    named = zip((key, f'{name}.supervised'), pair, strict=True)
                    bad = [term for term, norm in named if not math.isfinite(norm)]
                    self._warn_not_finite(runner, 'gradient', bad)
                label = key.replace('.loss_from_', '.from_')  # mmengine smooths what says "loss"
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
        # Scaled as in the step, lest float16 lose what is small; the way back is not autocast.
        with torch.autocast(loss.device.type, enabled=False):
            gradients = torch.autograd.grad(
                scale * loss, parameters, retain_graph=True, allow_unused=True
            )
        reached = {place: g for place, g in enumerate(gradients) if g is not None}
        if not reached:
            return {}
        norms = torch.stack([torch.linalg.vector_norm(g) for g in reached.values()]).tolist()
        return {place: norm / scale for place, norm in zip(reached, norms, strict=True)}

    def _term_of(self, key: str) -> Any:
        """The term that logs its loss, or its discriminator's, by this key; None if none does."""
        return self._terms.get(key) or self._terms.get(key.rpartition('.')[0])

    def _judge(self, runner: Runner) -> None:
        for key, pairs in self._measured.items():
            finite = [pair for pair in pairs if math.isfinite(sum(pair))]
            if finite:
                ratio = _ratio(*(sum(norms) for norms in zip(*finite, strict=True)))
                self._warn_of_balance(runner, self._terms[key].transfer, ratio)
            else:
                self._warn_not_finite(runner, 'gradient', [key])
        self._measured.clear()
        self._named.clear()

    @master_only
    def _warn_of_balance(self, runner: Runner, transfer: Any, ratio: float) -> None:
        if math.isnan(ratio) or self.negligible <= ratio <= self.dominance:
            return
        verdict = 'dominates' if ratio > self.dominance else 'has no effect'
        advice = (
            f'A weight of {transfer.weight / ratio:.2g} makes them equal'
            if ratio
            else 'See that its learner_tap comes after something that the learner trains'
        )
        runner.logger.warning(
            f'The transfer {transfer} {verdict}: in {transfer.learner}, its gradient is '
            f'{ratio:.3g} times that of the supervised losses. {advice}'
        )

    @master_only
    def _warn_not_finite(self, runner: Runner, what: str, keys: Iterable[str]) -> None:
        new = [key for key in keys if key not in self._named]
        self._named.update(new)
        if new:
            terms = {key: self._term_of(key) for key in new}
            named = [f'{key} ({x.transfer})' if x else key for key, x in terms.items()]
            runner.logger.warning(
                f'Not finite at iteration {self._iteration}: the {what} of {", ".join(named)}. '
                f'{NOT_FINITE_ADVICE}'
            )


def _total(norms: Norms, places: Iterable[int]) -> float:
    return math.hypot(*(norms[place] for place in places))


def _ratio(norm: float, supervised: float) -> float:
    return norm / supervised if supervised else math.nan
