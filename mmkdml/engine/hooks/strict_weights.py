"""Check weights that a training starts or resumes from."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmkdml.engine.distributed import unwrap_model
from mmkdml.registry import HOOKS
from mmkdml.weight_checks import check_finite, check_weights, select_weights


@HOOKS.register_module()
class StrictWeightsHook(Hook):
    """Refuse weights that do not fit the model, or are NaN or infinite, before they are loaded.

    mmengine only logs which weights are missing, and goes on with random ones. Here, a training
    that resumes needs all weights, and the average that ``EMAHook`` keeps. One that starts from
    other weights (``load_from``) may have further layers, but must find at least one weight.
    """

    priority = 'VERY_HIGH'  # before EMAHook exchanges the weights

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the weights.

        A training that resumes without the ``EMAHook`` of before goes on with the weights that were
        trained, not with their average.

        Args:
            runner: The runner.
            checkpoint: As it was loaded; changed in place.

        Raises:
            ValueError: If weights are missing, unexpected, of other shapes, or NaN or infinite.
        """
        model = unwrap_model(runner.model)
        path = runner._load_from or 'the checkpoint'
        weights = select_weights(checkpoint, path)
        if not runner._resume:
            if not weights.keys() & model.state_dict().keys():
                raise ValueError(
                    f'{path} has nothing for {type(model).__name__}: expected some of its '
                    f'keys, got {", ".join([*weights][:3])}. Give a checkpoint of this network'
                )
            check_finite(model, weights, path)
            return
        check_weights(model, weights, path, 'resumed model')
        average = checkpoint.get('ema_state_dict')
        if average is None:
            return
        # EMAHook saves the average as the model, and the trained weights as the average.
        trained = {key: average[key] for key in average if str(key).startswith('module.')}
        trained = select_weights(dict(state_dict=trained), path)
        check_weights(model, trained, path, 'resumed model (ema_state_dict)')
        if not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            runner.logger.warning(
                f'{path} was saved with EMAHook, which this run does not have: it goes on with the '
                'trained weights, not with their average'
            )
            checkpoint['state_dict'] = trained
