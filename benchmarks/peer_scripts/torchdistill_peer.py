"""Peer that trains with torchdistill 1.1.5; see serve.py."""

import torch
from serve import import_torchvision, serve

import_torchvision()

from torchdistill.core.distillation import get_distillation_box  # noqa: E402
from torchdistill.models.adaptation import ConvReg  # noqa: E402
from torchdistill.models.registry import register_auxiliary_model_wrapper  # noqa: E402
from torchdistill.models.wrapper import AuxiliaryModelWrapper  # noqa: E402
from torchvision.models import resnet18, resnet50  # noqa: E402


@register_auxiliary_model_wrapper
class StudentWithConnector(AuxiliaryModelWrapper):
    """Student with FitNet's connector, trained jointly instead of in torchdistill's extra stage."""

    def __init__(self, student_model, state, **kwargs):
        super().__init__()
        self.student_model = student_model
        self.connector = ConvReg(64, 256, kernel_size=1, stride=1, padding=0)
        self.connector.load_state_dict(
            {key.replace('norm.', 'bn.'): value for key, value in state.items()}
        )

    def forward(self, x):
        return self.student_model(x)

    def secondary_forward(self, io_dict):
        self.connector(io_dict['student_model.layer1']['output'])


def build(problem, method):
    networks = dict(teacher=resnet50(num_classes=2), student=resnet18(num_classes=2))
    for name, network in networks.items():
        network.load_state_dict(
            {
                key.removeprefix('backbone.').removeprefix('head.'): value
                for key, value in problem[name].items()
            }
        )
    networks['teacher'].eval()
    box = get_distillation_box(
        networks['teacher'],
        networks['student'],
        {},
        training_config(problem, method),
        torch.device('cpu'),
        None,
        False,
        1,
    )
    box.pre_epoch_process(epoch=0)

    def step():
        box.pre_forward_process()
        loss = box.forward_process(problem['inputs'], problem['labels'], {})
        box.post_forward_process(loss=loss)
        return loss.item()

    return step


def training_config(problem, method):
    config = dict(
        num_epochs=1,
        teacher=dict(forward_proc='forward_batch_only', requires_grad=False),
        student=dict(forward_proc='forward_batch_only'),
        optimizer=dict(key='Adam', kwargs=dict(lr=problem['learning_rate'])),
    )
    kd = dict(
        key='KDLoss',
        kwargs=dict(
            student_module_path='.',
            student_module_io='output',
            teacher_module_path='.',
            teacher_module_io='output',
            temperature=problem['temperature'],
            alpha=1.0,  # weight of the cross-entropy
            beta=1.0,
        ),
    )
    terms = dict(kd=dict(criterion=kd, weight=1.0))
    if method == 'fitnet':
        config['teacher']['forward_hook'] = dict(output=['layer1'])
        config['student'].update(
            forward_hook=dict(output=['student_model.layer1', 'connector']),
            auxiliary_model_wrapper=dict(
                key='StudentWithConnector', kwargs=dict(state=problem['connector'])
            ),
        )
        terms['hint'] = dict(
            criterion=dict(key='MSELoss', kwargs={}),
            criterion_wrapper=dict(
                key='SimpleLossWrapper',
                kwargs=dict(
                    input=dict(is_from_teacher=False, module_path='connector', io='output'),
                    target=dict(is_from_teacher=True, module_path='layer1', io='output'),
                ),
            ),
            weight=problem['hint_weight'],
        )
    config['criterion'] = dict(key='WeightedSumLoss', kwargs=dict(sub_terms=terms))
    return config


if __name__ == '__main__':
    serve(build)
