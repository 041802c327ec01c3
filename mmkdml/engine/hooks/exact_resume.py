"""A run that was stopped ends as if it had not been."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmkdml.registry import HOOKS


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes each epoch a function of the weights it starts from, the seed and its number.

    mmengine's checkpoints hold no state of random numbers, and one saved before the validation of
    its epoch does not know the outcome. So at the start of each epoch all random numbers are seeded
    anew from the run's seed and the epoch, in the process and in the workers of its data loader
    (which otherwise repeat themselves every epoch, or go on from where they were); and a run that
    resumes after an epoch that is validated first validates again, which finds the same best
    checkpoint. On a CPU the resumed run ends with the same weights, bit for bit.
    """

    priority = 'LOWEST'  # the checkpoint hook has to be ready for a validation

    def before_train(self, runner: Runner) -> None:
        """Validates what is resumed, if the epoch before is one that is validated."""
        loop = runner.train_loop
        if not isinstance(loop, EpochBasedTrainLoop) or runner.val_loop is None:
            return
        due = loop.epoch % loop.val_interval == 0 or loop.epoch == loop.max_epochs
        if loop.epoch >= max(loop.val_begin, 1) and due:
            runner.val_loop.run()

    def before_train_epoch(self, runner: Runner) -> None:
        """Seeds the epoch."""
        entropy = [runner.seed, runner.epoch, get_rank()]
        # Below 2^31: workers add their number, and NumPy takes no more than 32 bits.
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0]) >> 1
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        loader = runner.train_dataloader
        if loader.num_workers:
            loader.worker_init_fn = partial(
                worker_init_fn, num_workers=loader.num_workers, rank=0, seed=seed
            )
            loader._iterator = None  # of persistent workers: the new ones are seeded, too
