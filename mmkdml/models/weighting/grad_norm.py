"""Weights by gradient norms (GradNorm; Chen et al., ICML 2018)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.dist import all_reduce
from torch import Tensor, nn

from mmkdml.models.weighting.learned_weights import LearnedWeights, WeightedLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class GradNorm(LearnedWeights):
    """Learn weights with which the losses of each learner have gradients of similar norm.

    Chen et al., GradNorm: Gradient normalization for adaptive loss balancing in deep multitask
    networks, ICML 2018 (arXiv:1711.02257), algorithm 1. For the T losses L_i of a learner, times
    their weights in the config, and the weights W of one of its layers, ::

        G_i    = || w_i * dL_i/dW ||_2
        r_i    = (L_i / L_i(0)) / mean_j(L_j / L_j(0))
        L_grad = sum_i | G_i - mean_j(G_j) * r_i^alpha |        (equations 1 and 2)

    where L_i(0) is the first value of a loss. L_grad trains only the factors w_i; the targets
    mean_j(G_j) * r_i^alpha are constants. The factors begin with 1 and are renormalized after each
    step, so that their sum stays T. In addition to the paper, they are never negative.

    Norms are computed in each training step by an additional backward pass for each loss, from the
    loss to W. With several processes, gradients and losses are averaged over the processes.

    Args:
        losses: Losses by learner; the distiller passes them.
        members: The learners by name; the distiller passes them.
        default_layers: Name of the module with the shared feature map by learner, if there is a
            default; the distiller passes them.
        alpha: Strength >= 0 with which losses that were reduced less get larger gradients; 0
            makes all norms equal. The paper uses 1.5 and 0.12.
        layer: Dotted name of the module in each learner whose parameters are W, or a dict of names
            by learner. All losses must depend on it. Default: the last layer of the default tap.

    Raises:
        ValueError: If an argument is invalid, a module does not exist or has no trained
            parameters, or a learner has only one loss.
    """

    def __init__(
        self,
        losses: Mapping[str, Sequence[WeightedLoss]],
        members: Mapping[str, nn.Module],
        default_layers: Mapping[str, str],
        alpha: float = 1.5,
        layer: str | Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(losses)
        if not isinstance(alpha, int | float) or not 0 <= alpha < math.inf:
            raise ValueError(f'alpha must be a finite number of at least 0, got {alpha!r}')
        layers = layer if isinstance(layer, Mapping) else dict.fromkeys(self.losses, layer)
        if unknown := set(layers) - set(self.losses):
            raise ValueError(
                f'layer must name learners ({", ".join(self.losses)}), got '
                f'{", ".join(map(str, unknown))}'
            )
        self.alpha = alpha
        #: Names of the parameters W in each learner.
        self.shared: dict[str, list[str]] = {}
        for learner, rows in self.losses.items():
            if len(rows) < 2:
                raise ValueError(
                    f'GradNorm balances at least two losses of a learner, but {learner} has one: '
                    f'{rows[0].key or "supervised"}'
                )
            if any(getattr(module, 'with_cp', False) for module in members[learner].modules()):
                raise ValueError(
                    'GradNorm does not support activation checkpointing: expected with_cp=False in '
                    f'{learner}, got True'
                )
            self.shared[learner] = _shared_parameters(
                learner, members[learner], layers.get(learner), default_layers.get(learner)
            )
            self.register_buffer(f'initial_{learner}', torch.full((len(rows),), math.nan))
        #: w_i of each learner, in the order of its losses.
        self.factors = nn.ParameterDict(
            {learner: torch.ones(len(rows)) for learner, rows in self.losses.items()}
        )

    def weigh(
        self, learner: str, values: Sequence[Tensor], member: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the renormalized w_i without a gradient, and L_grad.

        Raises:
            ValueError: If a loss does not depend on W.
        """
        factors: Tensor = self.factors[learner]
        with torch.no_grad():
            factors.clamp_(min=0)
            factors.mul_(len(factors) / factors.sum())
        if not (self.training and torch.is_grad_enabled()):
            return factors.detach(), factors.new_zeros(())
        norms = self._norms(learner, values, member).to(factors)
        initial: Tensor = getattr(self, f'initial_{learner}')
        with torch.no_grad():
            current = torch.stack([value.detach() for value in values]).to(initial)
            all_reduce(current, 'mean')
            initial.copy_(torch.where(initial.isnan(), current, initial))
            ratios = current / initial.clamp(min=torch.finfo(initial.dtype).tiny)
            rates = ratios / ratios.mean().clamp(min=torch.finfo(initial.dtype).tiny)
            targets = (factors * norms).mean() * rates**self.alpha
        return factors.detach().clone(), (factors * norms - targets).abs().sum()

    @torch.compiler.disable
    def _norms(self, learner: str, values: Sequence[Tensor], member: nn.Module) -> Tensor:
        """Return ||dL_i/dW|| (L,), averaged over the processes, without a graph."""
        shared = [member.get_parameter(name) for name in self.shared[learner]]
        rows = []
        with torch.autocast(values[0].device.type, enabled=False):
            for row, value in zip(self.losses[learner], values, strict=True):
                # Scaled as in the step, so that small float16 gradients do not underflow.
                found = torch.autograd.grad(
                    self.loss_scale * value, shared, retain_graph=True, allow_unused=True
                )
                if any(one is None for one in found):
                    raise ValueError(
                        f'Invalid layer of GradNorm in {learner}: expected parameters that all '
                        f'losses depend on, but {row.key or "the supervised loss"} does not depend '
                        f'on {self.shared[learner][0]}. Set layer to an earlier module'
                    )
                rows.append(torch.cat([one.flatten().float() for one in found]))
        gradients = torch.stack(rows)
        all_reduce(gradients, 'mean')
        return torch.linalg.vector_norm(gradients, dim=1) / self.loss_scale


def _shared_parameters(
    learner: str, member: nn.Module, layer: str | None, default: str | None
) -> list[str]:
    """Return the names of the trained parameters of a layer, or of the last one in the default."""
    name = layer or default
    if not name:
        raise ValueError(
            f'Invalid layer of GradNorm: {learner} has no default. Set layer to a module that all '
            'losses depend on'
        )
    try:
        module = member.get_submodule(name)
    except AttributeError as error:
        raise ValueError(f'Invalid layer {name!r}: {learner} has no such module') from error
    trained = [
        (f'{name}.{key}', one) for key, one in module.named_parameters() if one.requires_grad
    ]
    if not trained:
        raise ValueError(f'Invalid layer {name!r}: {learner} trains no parameters in it')
    if layer is not None:
        return [key for key, _ in trained]
    matrices = [key for key, one in trained if one.ndim > 1]
    return [matrices[-1] if matrices else trained[-1][0]]
