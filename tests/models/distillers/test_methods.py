"""One training step of every compared method, with its config and tiny networks."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.optim import OptimWrapper, build_optim_wrapper
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper
from mmkdml.models import VariationalInformationLoss

BASES = Path(__file__).parents[3] / 'configs' / '_base_' / 'methods'
# Those of detectors are tested in tests/configs/test_detection_configs.py.
METHODS = sorted(p.stem for p in BASES.glob('*tion.py') if not p.stem.endswith('detection'))
ALL = [*METHODS, 'skd_adversarial_segmentation']
SEGMENTATION = [method for method in ALL if method.endswith('segmentation')]
# The number of classes, 1 for one logit. Two standardized logits are constant.
CASES = [(m, k) for m in ALL for k in (1, 3) if k == 3 or not m.startswith('lskd')]
ADAM = dict(type='Adam', lr=1e-3)


def trained(distiller):
    return {name: p for name, p in distiller.named_parameters() if p.requires_grad}


def step(tiny, distiller, inputs, samples, wrapper=None):
    """Run forward and backward once and return the losses."""
    distiller.train().zero_grad()
    with (wrapper or OptimWrapper(torch.optim.SGD([nn.Parameter()], lr=1.0))).optim_context(
        distiller
    ):
        losses = distiller(inputs, samples, mode='loss')
    tiny.optimized(losses).backward()
    return losses


def assert_finite(distiller, losses):
    """Assert that all losses are finite and all trained parameters have finite gradients."""
    assert [key for key, value in losses.items() if not value.isfinite().all()] == []
    assert [name for name, p in trained(distiller).items() if p.grad is None] == []
    assert [n for n, p in trained(distiller).items() if not p.grad.isfinite().all()] == []


def test_number_of_base_configs():
    # Including plain distillation of each task; DKD, DIST, LSKD twice, MGD, PKD and three of them.
    assert len(METHODS) == 7 + 7 + 2 + 6 + 3


@pytest.mark.parametrize(('method', 'classes'), CASES)
def test_student_is_trained_and_teacher_is_not(method, classes, tiny):
    distiller = tiny.compared(method, classes)
    teacher = distiller.named_members()['teacher']
    before = copy.deepcopy(teacher.state_dict())
    wrapper = build_optim_wrapper(distiller, dict(optimizer=ADAM))
    inputs, samples = tiny.compared_batch(method, 2, classes)
    images = inputs.clone()
    losses = step(tiny, distiller, inputs, samples)
    assert torch.equal(inputs, images)
    assert_finite(distiller, losses)
    # Only SimKD's classifier is passed to the optimizer without being trained.
    optimized = {id(p) for group in wrapper.param_groups for p in group['params']}
    assert {id(p) for p in trained(distiller).values()} <= optimized
    fixed = [name for name, p in distiller.named_parameters() if not p.requires_grad]
    head = ['members.student.head.fc.weight', 'members.student.head.fc.bias']
    assert fixed == (head if method.startswith('simkd') else [])
    wrapper.step()
    assert not {id(p) for p in teacher.parameters()} & optimized
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, before[key]) for key, value in teacher.state_dict().items())


@pytest.mark.parametrize('method', ALL)
def test_every_transfer_trains_student_loss_and_projector(method, tiny):
    distiller = tiny.compared(method)
    losses = distiller.train()(*tiny.compared_batch(method), mode='loss')
    rows = [key for key in losses if 'loss_from' in key and not key.endswith('discriminator')]
    assert len(rows) == len(distiller.transfer_terms)
    for key, term in zip(rows, distiller.transfer_terms, strict=True):
        distiller.zero_grad()
        losses[key].backward(retain_graph=True)
        student = distiller.members['student']
        assert any(p.grad is not None and p.grad.any() for p in student.parameters()), key
        own = [*term.loss.parameters(), *(term.projector or nn.Identity()).parameters()]
        if not key.endswith('predictions_2'):  # the discriminator has its own loss
            assert all(p.grad is not None for p in own), key
            assert not own or any(p.grad.any() for p in own), key


def test_variances_of_vid_are_trained(tiny):
    distiller = tiny.compared('vid_classification')
    (loss,) = (m for m in distiller.modules() if isinstance(m, VariationalInformationLoss))
    scales = {name: p for name, p in loss.named_parameters() if name.endswith('log_scale')}
    assert len(scales) == 4
    before = {name: p.detach().clone() for name, p in scales.items()}
    wrapper = build_optim_wrapper(distiller, dict(optimizer=ADAM))
    step(tiny, distiller, *tiny.compared_batch('vid_classification'))
    assert all(p.grad.all() for p in scales.values())
    wrapper.step()
    assert all((p != before[name]).all() for name, p in scales.items())


@pytest.mark.parametrize('classes', [1, 2])
@pytest.mark.parametrize('method', ['lskd_classification', 'lskd_dkd_classification'])
def test_binary_task_without_use_for_standardized_logits_raises(method, classes, tiny):
    with pytest.raises(ValueError, match=rf'LSKDLoss: .*K >= 3 .*got \(2, {classes}\).*constant'):
        tiny.compared(method, classes)


def test_decoupled_distillation_of_two_classes_is_plain_distillation(tiny):
    dkd, kd = (tiny.compared(f'{name}classification', 2) for name in ('dkd_', ''))
    kd.load_state_dict(dkd.state_dict())
    teachers = [one.named_members()['teacher'] for one in (dkd, kd)]
    teachers[1].load_state_dict(teachers[0].state_dict())
    batch = tiny.compared_batch('classification', 4, 2)
    first, second = (one.train()(*batch, mode='loss') for one in (dkd, kd))
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key])


def test_masks_of_mgd_follow_the_seed(tiny):
    distiller = tiny.compared('mgd_segmentation').train()
    batch = tiny.compared_batch('mgd_segmentation')
    key = 'student.loss_from_teacher.features'
    values = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        values.append(distiller(*batch, mode='loss')[key].item())
    assert values[0] == values[1] != values[2]


# ---- extreme inputs --------------------------------------------------------------------------


@pytest.mark.parametrize('classes', [1, 3], ids=['one_logit', 'three_classes'])
@pytest.mark.parametrize('method', SEGMENTATION)
def test_masks_of_a_single_class_stay_finite(method, classes, tiny):
    inputs, _ = tiny.compared_batch(method, 2, classes)
    masks = torch.zeros(3, 64, 64, dtype=torch.long)
    masks[1] = 1
    masks[2, 5, 7] = 1
    distiller = tiny.compared(method, classes)
    for chosen in ([0, 0], [1, 1], [2, 2], [0, 1]):
        losses = step(tiny, distiller, inputs, tiny.as_samples(masks[chosen]))
        assert_finite(distiller, losses)


@pytest.mark.parametrize(('method', 'classes'), CASES)
def test_huge_logits_stay_finite(method, classes, tiny):
    distiller = tiny.compared(method, classes)
    inputs, samples = tiny.compared_batch(method, 2, classes)
    logits = distiller.train()(inputs)
    with torch.no_grad():
        for name, member in distiller.named_members().items():
            last = member.head.fc if hasattr(member, 'head') else member.decode_head.conv_seg
            for parameter in last.parameters():
                parameter.mul_(1e4 / logits[name].abs().max())
    assert all(value.abs().max() > 5e3 for value in distiller(inputs).values())
    assert_finite(distiller, step(tiny, distiller, inputs, samples))


@pytest.mark.parametrize('method', ALL)
def test_bfloat16_stays_finite(method, tiny):
    distiller = tiny.compared(method)
    wrapper = CPUAmpOptimWrapper(torch.optim.Adam(distiller.parameters(), lr=1e-3))
    dtypes = set()
    distiller.members['student'].backbone.layer1.register_forward_hook(
        lambda module, args, output: dtypes.add(output.dtype)
    )
    losses = step(tiny, distiller, *tiny.compared_batch(method), wrapper)
    assert dtypes == {torch.bfloat16}
    assert_finite(distiller, losses)
    wrapper.step()
    assert all(p.isfinite().all() for p in distiller.parameters())


# ---- batch sizes -----------------------------------------------------------------------------


@pytest.mark.parametrize('method', ['semckd_classification', 'sp_classification'])
def test_smaller_last_batch_is_supported(method, tiny):
    distiller = tiny.compared(method)
    for number in (8, 3):
        assert_finite(distiller, step(tiny, distiller, *tiny.compared_batch(method, number)))


def test_batch_larger_than_batch_size_of_semckd_raises(tiny):
    method = 'semckd_classification'
    with pytest.raises(ValueError, match='batch_size=8 samples, got 9'):
        step(tiny, tiny.compared(method), *tiny.compared_batch(method, 9))


ONE_VALUE = 'batch norm.*one value per channel.*batch_size of at least 2.*drop_last=True'


@pytest.mark.parametrize(
    ('method', 'taps', 'message'),
    [
        ('sp_classification', {}, '2 or more images of both sides, got 1 and 1.*drop_last=True'),
        ('srrl_classification', {}, ONE_VALUE),
        ('semckd_classification', {}, ONE_VALUE),
        (
            'fitnet_classification',
            dict(source_tap='neck.conv_block', learner_tap='backbone.layer4'),
            ONE_VALUE,
        ),
    ],
)
def test_single_image_raises_if_the_method_needs_a_batch(method, taps, message, tiny):
    members = tiny.compared_members(method, 3)
    members['teacher']['backbone'].update(
        strides=(2, 2, 2, 2)
    )  # so that its last map has one pixel
    transfers = tiny.method_settings(method)['transfers']
    transfers[-1].update(taps)
    distiller = tiny.compared(method, members=members, transfers=transfers)
    assert_finite(distiller, step(tiny, distiller, *tiny.compared_batch(method, 2)))
    with pytest.raises(ValueError, match=message):
        step(tiny, distiller, *tiny.compared_batch(method, 1))


def test_single_image_and_pixel_raise_with_simkd(tiny):
    members = tiny.compared_members('simkd_classification', 3)
    members['student']['neck'].update(out_size=(1, 1))
    distiller = tiny.compared('simkd_classification', members=members)
    with pytest.raises(ValueError, match=ONE_VALUE):
        step(tiny, distiller, *tiny.compared_batch('simkd_classification', 1))


@pytest.mark.parametrize('method', [m for m in ALL if not m.startswith(('sp_', 'srrl', 'semckd'))])
def test_single_image_is_supported_by_other_methods(method, tiny):
    distiller = tiny.compared(method)
    assert_finite(distiller, step(tiny, distiller, *tiny.compared_batch(method, 1)))
