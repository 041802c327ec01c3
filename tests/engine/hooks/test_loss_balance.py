import gc
import json
import logging
import math
import re
import uuid
import weakref
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

# isort: split
from mmengine.evaluator import BaseMetric
from mmengine.hooks import LoggerHook
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import nn

from mmkdml.engine import CPUAmpOptimWrapper, LossBalanceHook
from mmkdml.experiments.suites.execution.execute import read_curves
from mmkdml.models import Transfer

FEATURES = Transfer('teacher', 'student', 'features', 0.5)
PREDICTIONS = Transfer('teacher', 'student', 'predictions', 0.25)
X = torch.tensor([1.0, -2.0, 3.0])
TAGS = {
    'gradient/student.from_teacher.features',
    'gradient/student.from_teacher.predictions',
    'gradient/student.supervised',
    'gradient_ratio/student.from_teacher.features',
    'gradient_ratio/student.from_teacher.predictions',
}


class Student(nn.Module):
    """Two shared parts, one with only supervised losses, and one with only a transfer."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Parameter(torch.tensor([0.5, 0.25, -1.0]))
        self.head = nn.Parameter(torch.tensor([2.0, -0.5]))
        self.of_labels = nn.Parameter(torch.tensor([7.0]))
        self.of_transfer = nn.Parameter(torch.tensor([-3.0]))
        self.fixed = nn.Parameter(torch.tensor([1.0]), requires_grad=False)


class Classroom(BaseModel):
    """Hand-written losses with hand-derived ``gradients``."""

    def __init__(self, features=0.5, predictions=0.25):
        super().__init__()
        self.members = nn.ModuleDict(dict(teacher=nn.Linear(1, 1), student=Student()))
        self.projector = nn.Parameter(torch.tensor(2.0))
        transfers = (
            Transfer('teacher', 'student', 'features', features),
            Transfer('teacher', 'student', 'predictions', predictions),
        )
        self.transfer_terms = [SimpleNamespace(key=t.key, transfer=t) for t in transfers]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return self.losses(inputs) if mode == 'loss' else [None]

    def losses(self, inputs):
        student, x = self.members['student'], (X * inputs[0]).to(self.projector)
        inputs = inputs.to(x)
        features, predictions = self.transfer_terms
        return {
            'teacher.loss': self.members['teacher'](inputs).square().mean(),
            'student.decode.loss_ce': [(student.encoder @ x).square() / 2, student.of_labels.sum()],
            'student.aux.loss': student.head.square() / 2 * 2,  # Becomes the mean of two.
            'student.accuracy': torch.tensor(50.0),
            features.key: features.transfer.weight
            * (
                (self.projector * student.encoder - 1).square().sum() / 2
                + student.of_transfer.sum()
                + student.fixed.sum()
            ),
            f'{features.key}.discriminator': 100 * self.projector.square(),
            predictions.key: predictions.transfer.weight
            * (student.encoder.square().sum() + student.head.square().sum())
            / 2,
        }

    def gradients(self):
        """Return gradient norms: supervised (shared parameters, encoder), features, predictions."""
        encoder, head = (
            getattr(self.members['student'], part).detach().double() for part in ('encoder', 'head')
        )
        supervised = (encoder @ X.double()) * X.double()
        both = torch.cat([supervised, head])
        p = self.projector.item()
        return (
            (both.norm().item(), supervised.norm().item()),
            (self.transfer_terms[0].transfer.weight * p * (p * encoder - 1)).norm().item(),
            (self.transfer_terms[1].transfer.weight * torch.cat([encoder, head])).norm().item(),
        )


class Breaks(Classroom):
    """Network whose losses ``spoil`` changes from the second step on."""

    def __init__(self, spoil, **weights):
        super().__init__(**weights)
        self.spoil, self.steps = spoil, 0

    def losses(self, inputs):
        self.steps += 1
        losses = super().losses(inputs)
        if self.steps > 1:
            self.spoil(self, losses)
        return losses


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {}


def loader(steps):
    return dict(
        dataset=[dict(inputs=torch.ones(1)) for _ in range(steps)],
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


def run(
    folder,
    model,
    hook=None,
    steps=1,
    epochs=1,
    logger=1,
    wrapper=OptimWrapper,
    train_cfg=None,
    lr=0.0,
    **settings,
):
    """Return logged scalars, warnings and other lines of a run."""
    runner = Runner(
        model=model,
        work_dir=str(folder),
        experiment_name=uuid.uuid4().hex,
        train_dataloader=loader(steps),
        train_cfg=train_cfg or dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(type=wrapper, optimizer=dict(type=torch.optim.SGD, lr=lr)),
        default_hooks=dict(logger=dict(type=LoggerHook, interval=logger), checkpoint=None),
        custom_hooks=[hook or LossBalanceHook(interval=1)],
        **settings,
    )
    warnings, others, handler = [], [], logging.Handler()
    handler.emit = lambda record: (
        warnings if record.levelno == logging.WARNING else others
    ).append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    path = next(Path(folder).rglob('scalars.json'), None)
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path else []
    return SimpleNamespace(
        rows=[row for row in rows if 'loss' in row],
        warnings=[text for text in warnings if 'transfer' in text or 'Not finite' in text],
        lines=others,
        hub=runner.message_hub,
    )


def measured(run):
    return {
        key: [float(value) for value in buffer.data[0]]
        for key, buffer in run.hub.log_scalars.items()
        if 'gradient' in key
    }


# ---- Measurements ----------------------------------------------------------------------------


def test_norms_match_hand_derived_gradients(tmp_path):
    model = Classroom().double()
    (both, encoder), features, predictions = model.gradients()
    row = run(tmp_path, model).rows[0]
    found = {key: row[key] for key in row if 'gradient' in key}
    assert found == pytest.approx(
        {
            'gradient/student.supervised': both,
            'gradient/student.from_teacher.features': features,
            'gradient/student.from_teacher.predictions': predictions,
            'gradient_ratio/student.from_teacher.features': features / encoder,
            'gradient_ratio/student.from_teacher.predictions': predictions / both,
        },
        rel=1e-12,
    )


def test_idle_transfers_are_not_measured(tmp_path):
    """Their weight is 0 by a schedule; the advice is for the weight of the step."""
    model = Classroom().double()
    (_, encoder), features, _ = model.gradients()
    first, second = model.transfer_terms
    first.active, first.weight, second.active = True, 0.25, False
    result = run(tmp_path / 'one', model, LossBalanceHook(1, 1.001, 0.999))
    names = {'supervised', 'from_teacher.features'}
    assert {key.partition('student.')[2] for key in measured(result)} == names
    assert f'A weight of {0.25 * encoder / features:.2g} makes them equal' in result.warnings[0]
    first.active = False
    assert measured(run(tmp_path / 'none', Classroom().double(), LossBalanceHook(interval=1))) != {}
    assert measured(run(tmp_path / 'idle', model, LossBalanceHook(interval=1))) == {}


def test_logged_values_are_not_smoothed_and_curves_are_epoch_means(tmp_path):
    """mmengine smooths values with "loss" in their name over ten steps."""
    seen = []

    class Watched(Classroom):
        def losses(self, inputs):
            seen.append(self.gradients()[1])
            return super().losses(inputs)

    model = Watched().double()
    key = 'gradient/student.from_teacher.features'
    result = run(tmp_path, model, LossBalanceHook(), steps=2, epochs=2, lr=0.05)
    assert len(set(seen)) == 4
    assert [row[key] for row in result.rows] == pytest.approx(seen, rel=1e-12)
    curves = read_curves(tmp_path)
    values = curves[curves['key'] == key].set_index('epoch')['value']
    assert values.to_dict() == pytest.approx(
        {1: np.mean(seen[:2]), 2: np.mean(seen[2:])}, rel=1e-12
    )
    assert curves['key'].str.contains('loss_from').sum() == 2 * 3  # No loss is logged twice.


@pytest.mark.parametrize(
    ('interval', 'logger', 'steps', 'expected'),
    [(None, 2, 5, 2), (3, 2, 7, 2), (None, 50, 4, 1), (4, 1, 4, 1), (1, 50, 3, 3)],
)
def test_measured_steps_follow_the_interval(tmp_path, interval, logger, steps, expected):
    hook = LossBalanceHook(interval=interval)
    values = measured(run(tmp_path, Classroom(), hook, steps=steps, epochs=2, logger=logger))
    assert {key.removeprefix('train/') for key in values} == TAGS
    assert {len(column) for column in values.values()} == {2 * expected}


def test_each_learner_is_measured_separately(tmp_path):
    class Peers(BaseModel):
        def __init__(self):
            super().__init__()
            self.members = nn.ModuleDict(
                {name: nn.Linear(1, 1, bias=False).double() for name in ('a', 'ab')}
            )
            for member, value in zip(self.members.values(), (2.0, -3.0), strict=True):
                nn.init.constant_(member.weight, value)
            transfers = (
                Transfer('ab', 'a', 'predictions', 0.5),
                Transfer('a', 'ab', 'predictions', 0.25),
            )
            self.transfer_terms = [SimpleNamespace(key=t.key, transfer=t) for t in transfers]

        def forward(self, inputs, data_samples=None, mode='tensor'):
            a, ab = (member.weight.square().sum() / 2 for member in self.members.values())
            return {
                'a.loss': a,
                'ab.loss': ab,
                'a.loss_from_ab.predictions': 0.5 * a,
                'ab.loss_from_a.predictions': 0.25 * ab,
            }

    assert measured(run(tmp_path, Peers())) == {
        'train/gradient/a.from_ab.predictions': [1.0],
        'train/gradient_ratio/a.from_ab.predictions': [0.5],
        'train/gradient/a.supervised': [2.0],
        'train/gradient/ab.from_a.predictions': [0.75],
        'train/gradient_ratio/ab.from_a.predictions': [0.25],
        'train/gradient/ab.supervised': [3.0],
    }


def test_no_tensor_or_hook_is_kept_after_the_step(tmp_path):
    terms = []

    class Remembered(Classroom):
        def losses(self, inputs):
            losses = super().losses(inputs)
            terms.extend(weakref.ref(x) for x in losses.values() if isinstance(x, torch.Tensor))
            return losses

    hook, model = LossBalanceHook(interval=1), Remembered()
    run(tmp_path, model, hook)
    gc.collect()
    assert [term for term in terms if term() is not None] == []
    assert len(model._forward_hooks) == 0
    assert not any(isinstance(value, torch.Tensor) for value in vars(hook).values())


def test_network_without_transfers_is_not_measured(tmp_path):
    class Plain(BaseModel):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, inputs, data_samples=None, mode='tensor'):
            return dict(loss=self.layer(inputs).sum() / 0)

    result = run(tmp_path, Plain(), steps=2, epochs=2)
    assert 'Plain has no transfers; LossBalanceHook has no effect' in result.lines
    assert measured(result) == {}
    assert result.warnings == []


# ---- Mixed precision -------------------------------------------------------------------------


class Matrices(Classroom):
    """Network with matrix products, which autocast computes in lower precision."""

    small, large = 1.0, 1.0

    def losses(self, inputs):
        losses, row = super().losses(inputs), self.members['student'].encoder[None]
        losses['student.decode.loss_ce'] = (row @ X[:, None]).float().square().sum() / 2
        losses[FEATURES.key] = self.small * (row @ torch.eye(3)).float().sum()
        losses[PREDICTIONS.key] = self.large * (row @ torch.eye(3)).float().sum()
        return losses


def test_bfloat16_on_a_cpu(tmp_path):
    model = Matrices()
    model.members['student'].encoder.data.mul_(1.23)  # Not representable in bfloat16.
    expected = measured(run(tmp_path / 'a', model))
    found = measured(run(tmp_path / 'b', model, wrapper=CPUAmpOptimWrapper))
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, rel=2e-2)
    assert found != expected


class HalfWrapper(OptimWrapper):
    """``AmpOptimWrapper`` with float16, on a CPU."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=2.0**14)

    def backward(self, loss, **kwargs):
        self.loss_scaler.scale(loss).backward(**kwargs)
        self._inner_count += 1

    def step(self, **kwargs):
        self.loss_scaler.step(self.optimizer)
        self.loss_scaler.update()

    @contextmanager
    def optim_context(self, model):
        with super().optim_context(model), torch.autocast('cpu', torch.float16):
            yield


def test_gradients_that_underflow_in_float16_are_measured_scaled(tmp_path):
    model = Matrices()
    model.small = 2.0**-26
    assert torch.tensor(model.small).half() == 0
    found = measured(run(tmp_path, model, wrapper=HalfWrapper))
    expected = model.small * math.sqrt(3)
    assert found['train/gradient/student.from_teacher.features'] == pytest.approx([expected], 1e-3)


def test_overflow_of_loss_scaling_skips_the_measurement(tmp_path):
    class Overflows(Matrices):
        large = 16.0  # 2^18 when scaled, above the largest float16, 65504.

    result = run(tmp_path / 'a', Overflows(), wrapper=HalfWrapper, steps=6)
    values = measured(result)
    # The scaler halves its factor after each overflow: 2^18, 2^17 and 2^16 are too large.
    assert len(values['train/gradient/student.from_teacher.predictions']) == 3
    assert len(values['train/gradient/student.from_teacher.features']) == 6
    assert result.warnings == []
    result = run(tmp_path / 'b', Overflows(), wrapper=HalfWrapper, steps=3)
    assert len(result.warnings) == 1
    assert result.warnings[0].startswith(
        'Not finite at iteration 3: the gradient of student.loss_from_teacher.predictions'
    )


# ---- Warnings --------------------------------------------------------------------------------


def test_non_finite_loss_is_reported_once_per_epoch(tmp_path):
    def spoil(model, losses):
        losses[FEATURES.key] = losses[FEATURES.key] * math.nan
        losses[f'{FEATURES.key}.discriminator'] = losses[FEATURES.key]

    hook = LossBalanceHook(interval=50)
    result = run(tmp_path, Breaks(spoil), hook, steps=4, epochs=2)
    advice = 'Lower its weight or the learning rate, clip gradients'
    assert [text.partition('. ')[0] for text in result.warnings[:1]] == [
        'Not finite at iteration 2: the loss of '
        'student.loss_from_teacher.features (teacher -> student features 0.5 FeatureMSELoss), '
        'student.loss_from_teacher.features.discriminator '
        '(teacher -> student features 0.5 FeatureMSELoss)'
    ]
    assert advice in result.warnings[0]
    # Afterwards the weights are not finite, and neither are the other losses.
    (text,) = [text for text in result.warnings if 'at iteration 3' in text]
    assert 'student.decode.loss_ce, ' in text
    assert FEATURES.key not in text
    assert re.findall(r'iteration (\d+)', ' '.join(result.warnings)) == ['2', '3', '5']


def test_infinite_gradient_of_a_finite_loss_is_reported(tmp_path):
    def spoil(model, losses):
        zero = (model.members['student'].encoder * 0).sum()
        losses[FEATURES.key] = zero.sqrt()

    result = run(tmp_path, Breaks(spoil), steps=2)
    assert result.warnings[0].startswith(
        'Not finite at iteration 2: the gradient of student.loss_from_teacher.features '
        '(teacher -> student features 0.5 FeatureMSELoss). '
    )
    values = measured(result)
    assert len(values['train/gradient/student.from_teacher.features']) == 1
    assert len(values['train/gradient/student.from_teacher.predictions']) == 2


def test_infinite_gradient_of_supervised_losses_is_reported(tmp_path):
    def spoil(model, losses):
        losses['student.aux.loss'] = (model.members['student'].encoder * 0).sum().sqrt()

    result = run(tmp_path, Breaks(spoil), steps=2)
    assert result.warnings[0].startswith(
        'Not finite at iteration 2: the gradient of student.supervised. '
    )


def ratio_in(text):
    return float(re.search(r'its gradient is (\S+) times that of the supervised losses', text)[1])


@pytest.mark.parametrize(
    ('weight', 'verdict'), [(100.0, 'dominates'), (1e-5, 'has no effect')], ids=['high', 'low']
)
def test_extreme_transfer_is_reported_and_the_suggested_weight_balances_it(
    tmp_path, weight, verdict
):
    model = Classroom(features=weight)
    (_, encoder), features, _ = model.gradients()
    result = run(tmp_path / 'a', model, steps=3, epochs=2)
    assert len(result.warnings) == 2  # One per epoch.
    text = result.warnings[0]
    assert text.startswith(
        f'The transfer teacher -> student features {weight:g} FeatureMSELoss {verdict}: in student,'
    )
    assert ratio_in(text) == pytest.approx(features / encoder, rel=1e-2)
    proposed = float(re.search(r'A weight of (\S+) makes them equal$', text)[1])
    balanced = run(tmp_path / 'b', Classroom(features=proposed), steps=3)
    assert balanced.warnings == []
    found = measured(balanced)['train/gradient_ratio/student.from_teacher.features']
    assert found == pytest.approx([1.0] * 3, rel=0.05)


def test_ratio_uses_mean_norms_of_the_epoch(tmp_path):
    """One step with a hundredfold gradient is averaged with the other steps."""

    def spoil(model, losses):
        if model.steps == 2:
            losses[FEATURES.key] = 100 * losses[FEATURES.key]

    (_, encoder), features, _ = Classroom().gradients()
    for steps in (2, 20):
        mean = (steps - 1 + 100) / steps * features / encoder
        for dominance, warns in ((mean * 1.01, False), (mean * 0.99, True)):
            hook = LossBalanceHook(interval=1, dominance=max(dominance, 1.01))
            result = run(tmp_path / uuid.uuid4().hex, Breaks(spoil), hook, steps=steps)
            assert bool(result.warnings) == warns
            if warns:
                assert ratio_in(result.warnings[0]) == pytest.approx(mean, rel=1e-2)


def test_transfer_without_gradient_in_the_learner_is_reported(tmp_path):
    def spoil(model, losses):
        losses[FEATURES.key] = losses[FEATURES.key].detach() * model.projector

    model = Breaks(spoil)
    model.steps = 1  # Spoils the first step, too.
    result = run(tmp_path, model)
    assert result.warnings == [
        'The transfer teacher -> student features 0.5 FeatureMSELoss has no effect: in student, '
        'its gradient is 0 times that of the supervised losses. Set learner_tap to a module after '
        'trained parameters of the learner'
    ]


def test_no_ratio_and_no_warning_without_supervised_losses(tmp_path):
    """For example in SimKD, whose student learns only from its teacher."""

    def spoil(model, losses):
        for key in ('student.decode.loss_ce', 'student.aux.loss'):
            losses[key] = [0 * part for part in losses[key]]

    model = Breaks(spoil, features=100.0)
    model.steps = 1
    result = run(tmp_path, model)
    assert result.warnings == []
    assert {key.removeprefix('train/') for key in measured(result)} == {
        key for key in TAGS if 'ratio' not in key
    }


def test_iteration_based_training_warns_before_each_validation(tmp_path):
    result = run(
        tmp_path,
        Classroom(features=100.0),
        steps=6,
        train_cfg=dict(by_epoch=False, max_iters=6, val_interval=2),
        log_processor=dict(by_epoch=False),
        val_dataloader=loader(1),
        val_cfg=dict(),
        val_evaluator=dict(type=Nothing),
    )
    assert len(result.warnings) == 3


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(interval=0), 'interval: expected an int of at least 1, .* got 0'),
        (dict(dominance=1), 'dominance: .* above 1, got 1'),
        (dict(dominance=math.nan), 'dominance: .* above 1, got nan'),
        (dict(negligible=1), r'negligible: .* in \[0, 1\), got 1'),
        (dict(negligible=-0.1), r'negligible: .* in \[0, 1\), got -0\.1'),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        LossBalanceHook(**settings)


def test_activation_checkpointing_raises(tmp_path):
    model = Classroom()
    model.members['teacher'].with_cp = True  # Has no transfer to it.
    run(tmp_path / 'a', model)
    model.members['student'].with_cp = True
    with pytest.raises(ValueError, match='with_cp=False in student, got True'):
        run(tmp_path / 'b', model)
