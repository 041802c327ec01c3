"""Peer that trains with this package; see serve.py."""

from mmengine.optim import build_optim_wrapper
from problem import classroom_config
from serve import mmengine_step, serve

from mmkdml.registry import MODELS


def build(problem, method):
    config = classroom_config(method)
    classroom = MODELS.build(config.model).train()
    for name, member in classroom.named_members().items():
        member.load_state_dict(problem[name])
    for connector in classroom.transfer_modules:
        if connector.state_dict():
            connector.load_state_dict(problem['connector'])
    wrapper = build_optim_wrapper(classroom, config.optim_wrapper)
    return mmengine_step(classroom, wrapper, problem)


if __name__ == '__main__':
    serve(build)
