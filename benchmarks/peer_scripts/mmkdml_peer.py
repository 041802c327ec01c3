"""Peer that trains with this package; see serve.py."""

import torch
from mmengine.optim import build_optim_wrapper
from problem import classroom_config
from serve import mmengine_step, serve

from mmkdml.apis import use_fast
from mmkdml.registry import MODELS


def build(problem, method, fast=False):
    config = classroom_config(method)
    if fast:
        use_fast(config)
    classroom = MODELS.build(config.model).train()
    for name, member in classroom.named_members().items():
        member.load_state_dict(problem[name])
    for connector in classroom.transfer_modules:
        if connector.state_dict():
            connector.load_state_dict(problem['connector'])
    if fast:
        classroom.to(memory_format=torch.channels_last)
    wrapper = build_optim_wrapper(classroom, config.optim_wrapper)
    return mmengine_step(classroom, wrapper, problem)


if __name__ == '__main__':
    serve(build)
