"""Peer that trains with this package; see serve.py."""

from mmengine.optim import build_optim_wrapper
from mmpretrain.structures import DataSample
from problem import classroom_config
from serve import serve

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
    samples = [DataSample().set_gt_label(label) for label in problem['labels']]

    def step():
        with wrapper.optim_context(classroom):
            losses = classroom(problem['inputs'], samples, mode='loss')
        total = classroom.parse_losses(losses)[0]
        wrapper.update_params(total)
        return total.item()

    return step


if __name__ == '__main__':
    serve(build)
