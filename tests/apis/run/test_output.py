from types import SimpleNamespace

import torch
from mmengine.optim import OptimWrapper

from mmkdml.apis.run.output import _schedule


def test_schedule_of_a_resumed_run_names_the_initial_learning_rate():
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    runner = SimpleNamespace(
        train_dataloader=torch.utils.data.DataLoader(range(24), batch_size=8),
        train_loop=None,
        max_iters=6,
        max_epochs=2,
        seed=0,
        optim_wrapper=OptimWrapper(optimizer),
    )
    assert 'Adam at 0.002' in _schedule(runner)
    torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)  # sets initial_lr
    optimizer.param_groups[0]['lr'] = 0.0015  # decayed before the interruption
    assert '2 epochs of 3 steps, batch size 8, Adam at 0.002, seed 0' in _schedule(runner)
