"""Peer that trains with mmrazor 1.0.0; see serve.py."""

import sys
import types

from serve import import_torchvision, mmengine_step, serve

import_torchvision()

import mmcv  # noqa: E402

# mmrazor requires an outdated mmcv that no longer installs, and quantization code that PyTorch
# removed.
mmcv.__version__ = '2.1.0'
sys.modules['mmrazor.structures.quantization'] = types.SimpleNamespace(
    BackendConfigs=None, QConfigHandler=None
)

import mmpretrain.models  # noqa: E402, F401
import mmrazor.models  # noqa: E402, F401
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmrazor.registry import MODELS  # noqa: E402


def build(problem, method):
    algorithm = MODELS.build(
        dict(
            type='SingleTeacherDistill',
            teacher=classifier(50, 2048),
            architecture=classifier(18, 512),
            distiller=distiller(problem, method),
        )
    )
    algorithm.train()
    algorithm.teacher.load_state_dict(problem['teacher'])
    algorithm.student.load_state_dict(problem['student'])
    for connector in algorithm.distiller.connectors.values():
        connector.conv_module.load_state_dict(
            {key.replace('norm.', 'bn.'): value for key, value in problem['connector'].items()}
        )
    wrapper = build_optim_wrapper(
        algorithm,
        dict(type='OptimWrapper', optimizer=dict(type='Adam', lr=problem['learning_rate'])),
    )
    return mmengine_step(algorithm, wrapper, problem)


def classifier(depth, channels):
    return dict(
        _scope_='mmpretrain',
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=depth),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=2,
            in_channels=channels,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )


def distiller(problem, method):
    recorders = dict(logits=dict(type='ModuleOutputs', source='head.fc'))
    losses = dict(loss_kl=dict(type='KLDivergence', tau=problem['temperature']))
    mappings = dict(
        loss_kl=dict(
            preds_S=dict(from_student=True, recorder='logits'),
            preds_T=dict(from_student=False, recorder='logits'),
        )
    )
    connectors = {}
    if method == 'fitnet':
        recorders['map'] = dict(type='ModuleOutputs', source='backbone.layer1')
        connectors['hint'] = dict(
            type='ConvModuleConnector',
            in_channel=64,
            out_channel=256,
            bias=True,
            norm_cfg=dict(type='BN'),
        )
        losses['loss_hint'] = dict(
            type='L2Loss', normalize=False, div_element=True, loss_weight=problem['hint_weight']
        )
        mappings['loss_hint'] = dict(
            s_feature=dict(from_student=True, recorder='map', connector='hint'),
            t_feature=dict(from_student=False, recorder='map'),
        )
    return dict(
        type='ConfigurableDistiller',
        student_recorders=recorders,
        teacher_recorders=recorders,
        distill_losses=losses,
        loss_forward_mappings=mappings,
        connectors=connectors,
    )


if __name__ == '__main__':
    serve(build)
