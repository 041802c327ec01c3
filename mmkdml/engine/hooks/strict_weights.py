"""Hook that checks the weights from which a training starts or resumes."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.registry import HOOKS
from mmkdml.weight_checks import check_finite, check_weights, select_weights


@HOOKS.register_module()
class StrictWeightsHook(Hook):
    """Raise an error for weights that do not fit the model or are not finite, before loading them.

    mmengine only logs missing weights and continues with random ones. With this hook, resuming
    requires all weights, including the average of ``EMAHook``. With ``load_from``, the model may
    have additional layers, but the checkpoint must contain at least one of its weights.
    """

    priority = 'VERY_HIGH'  # Before EMAHook swaps the weights.

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Check the weights of a checkpoint.

        If a run with ``EMAHook`` is resumed without it, the trained weights replace their average
        in ``checkpoint``.

        Raises:
            ValueError: If weights are missing, unexpected, of different shape, NaN or infinite.
        """
        model = unwrap_model(runner.model)
        path = runner._load_from or 'the checkpoint'
        weights = select_weights(checkpoint, path)
        if not runner._resume:
            if not weights.keys() & model.state_dict().keys():
                raise ValueError(
                    f'{path} has no weights for {type(model).__name__}: expected some of its '
                    f'keys, got {", ".join([*weights][:3])}. Use a checkpoint of this network'
                )
            check_finite(model, weights, path)
            return
        check_weights(model, weights, path, 'resumed model')
        average = checkpoint.get('ema_state_dict')
        if average is None:
            return
        # EMAHook saves the average as state_dict, and the trained weights as ema_state_dict.
        trained = {key: average[key] for key in average if str(key).startswith('module.')}
        trained = select_weights(dict(state_dict=trained), path)
        check_weights(model, trained, path, 'resumed model (ema_state_dict)')
        if not any(isinstance(hook, EMAHook) for hook in runner.hooks):
            runner.logger.warning(
                f'{path} was saved with EMAHook, which this run does not use: it continues with '
                'the trained weights instead of their average'
            )
            checkpoint['state_dict'] = trained
