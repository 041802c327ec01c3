"""Losses of all transfers in one training step, of which some may be idle."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmkdml.models.distillers.terms.transfer_terms import MemberOutputs, TransferTerm, detach_source
from mmkdml.models.tasks import Task


class TransferStep:
    """Computes the losses of transfers, and skips those whose weight is 0 in this step.

    A skipped transfer runs neither its loss nor its projector. Its loss is a zero whose gradients
    for its own parameters are zeros, and so for parameters of the learner that no other loss
    reaches, as if its loss had been multiplied by 0. All processes of DistributedDataParallel
    therefore use all parameters in each step, without ``find_unused_parameters``, and a projector
    is trained (weight decay, momentum) as in a single process.

    Args:
        terms: Transfer terms in the order of the losses.
    """

    def __init__(self, terms: Sequence[TransferTerm]) -> None:
        self.terms = terms
        # Names of the parameters that nothing reaches, by the keys of idle terms and learner.
        self._unreached: dict[tuple[str, ...], dict[str, list[str]]] = {}

    @property
    def active(self) -> list[TransferTerm]:
        """Terms with a positive weight in this step."""
        return [term for term in self.terms if term.active]

    def is_idle(self, name: str) -> bool:
        """Return whether a member is the source of transfers that are all idle."""
        active = {term.active for term in self.terms if term.transfer.source == name}
        return active == {False}

    def losses(
        self,
        outputs: Mapping[str, MemberOutputs],
        members: Mapping[str, nn.Module],
        task: Task,
        samples: Any,
        supervised: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        """Compute the weighted losses by key, and the weights that change.

        Args:
            outputs: Outputs of the members that ran in this step.
            members: All members by name.
            task: Task of the members.
            samples: Samples of the batch.
            supervised: Losses of the members in this step.

        Raises:
            ValueError: If a weight has a schedule, and nothing has set it.
        """
        losses: dict[str, Tensor] = {}
        for term in self.terms:
            transfer = term.transfer
            if transfer.schedule:
                losses[transfer.weight_key(term.key)] = term.scheduled_weight()
            if not term.active:
                losses[term.key] = torch.zeros(())  # keeps the order of the log
                continue
            source = outputs[transfer.source].select(term.source_tap)
            learner = outputs[transfer.learner].select(term.learner_tap)
            extra = term.extra_loss_inputs(task, members[transfer.source], samples)
            losses.update(term(detach_source(source), learner, *extra))
        idle = [term for term in self.terms if not term.active]
        if idle:
            losses.update(self._idle_losses(idle, members, {**supervised, **losses}))
        return losses

    @torch.compiler.disable
    def _idle_losses(
        self,
        idle: Sequence[TransferTerm],
        members: Mapping[str, nn.Module],
        losses: Mapping[str, Any],
    ) -> dict[str, Tensor]:
        plan = tuple(term.key for term in idle)
        if plan not in self._unreached and torch.is_grad_enabled():
            learners = {term.transfer.learner for term in idle}
            reached = _reached(value for key, value in losses.items() if 'loss' in key)
            self._unreached[plan] = {
                name: [key for key, x in members[name].named_parameters() if id(x) not in reached]
                for name in learners
            }
        zeros = {}
        for term in idle:
            learner = members[term.transfer.learner]
            names = self._unreached.get(plan, {}).get(term.transfer.learner, ())
            own = [x for part in (term.loss, term.projector) if part for x in part.parameters()]
            device = next(learner.parameters()).device
            used = [*own, *map(learner.get_parameter, names)]
            zeros[term.key] = sum(
                (_zero(x) for x in used if x.requires_grad), torch.zeros((), device=device)
            )
        return zeros


def _zero(parameter: Tensor) -> Tensor:
    """Return a zero with zero gradients, without reading the values."""
    return parameter.unsqueeze(0)[:0].sum()


def _reached(losses: Iterable[Any]) -> set[int]:
    """Return the ids of the leaf tensors in the graphs of losses."""
    tensors = [x for one in losses for x in (one if isinstance(one, list | tuple) else [one])]
    nodes: list[Any] = [x.grad_fn for x in tensors if isinstance(x, Tensor)]
    seen: set[Any] = {None}
    leaves: set[int] = set()
    while nodes:
        node = nodes.pop()
        if node in seen:
            continue
        seen.add(node)
        if isinstance(variable := getattr(node, 'variable', None), Tensor):
            leaves.add(id(variable))
        nodes.extend(following for following, _ in node.next_functions)
    return leaves
