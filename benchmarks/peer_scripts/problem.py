"""Problem for all peers: networks that every package has, their initial weights, and a batch."""

from pathlib import Path

import torch

from mmkdml.apis import load_config
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs' / 'comparisons'


def classroom_config(method):
    """Load the PCam config, with a plain ResNet50 as teacher and without pretrained weights."""
    config = load_config(str(CONFIGS / f'{method}_r50_r18_pcam.py'), {})
    teacher, student = config.model.members.teacher, config.model.members.student
    teacher.neck = student.neck
    teacher.head.in_channels = 2048
    for member in (teacher, student):
        member.backbone.init_cfg = None
    config.model.frozen.teacher = None
    return config


def write_problem(path, batch_size):
    torch.manual_seed(0)
    config = classroom_config('fitnet')
    classroom = MODELS.build(config.model)
    members = classroom.named_members()
    inputs = torch.randn(batch_size, 3, *classroom.input_size)
    for member in members.values():
        settle_batch_norms(member, inputs)
    predictions, hint = classroom.transfers
    problem = dict(
        {name: member.state_dict() for name, member in members.items()},
        connector=classroom.transfer_terms[1].projector.state_dict(),
        inputs=inputs,
        labels=torch.randint(2, (batch_size,)),
        temperature=predictions.loss['temperature'],
        hint_weight=hint.weight,
        learning_rate=config.optim_wrapper.optimizer.lr,
    )
    torch.save(problem, path)


def settle_batch_norms(member, inputs):
    """Set the running statistics to those of these images, so that deep features do not explode."""
    norms = {
        norm: norm.momentum for norm in member.modules() if isinstance(norm, torch.nn.BatchNorm2d)
    }
    for norm in norms:
        norm.momentum = None  # average of all batches, here one
    with torch.no_grad():
        member.train()(inputs)
    for norm, momentum in norms.items():
        norm.momentum = momentum
