from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from benchmarks import precision
from benchmarks.precision import (
    COMPILED,
    FORMS,
    PrecisionCost,
    format_precisions,
    measure_precisions,
)

STUDY = Path(__file__).parents[2] / 'configs' / 'study'


def config(name='ham64_student'):
    return Config.fromfile(STUDY / f'{name}.py')


@pytest.fixture
def built(monkeypatch):
    """Model and optimizer settings of each prepared step."""
    seen = []
    prepare = precision.training_step

    def note(inspection, model, optim_wrapper, batch_size):
        seen.append((model, optim_wrapper))
        return prepare(inspection, model, optim_wrapper, batch_size)

    monkeypatch.setattr(precision, 'training_step', note)
    return seen


@pytest.mark.parametrize('name', ['ham64_student', 'ham64_kd'])
def test_forms_take_the_same_step(built, name):
    before = torch.get_rng_state()
    settings = config(name)
    costs = measure_precisions(settings, batch_size=2, rounds=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert settings.to_dict() == config(name).to_dict()
    assert list(costs) == list(FORMS)
    plain = costs['float32']
    assert (plain.gain, plain.difference) == (1.0, 0.0)
    for (form, cost), (model, wrapper) in zip(costs.items(), built, strict=True):
        assert cost.gain == pytest.approx(plain.seconds / cost.seconds)
        half = form.startswith('bfloat16')
        assert cost.difference < (0.05 if half else 1e-4)
        assert (cost.difference > 1e-6) is half
        assert (wrapper.get('type') == 'mmkdml.CPUAmpOptimWrapper') is half
        assert wrapper['optimizer'].get('fused', False) is ('fused' in form)
        maps = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 < p.shape[2]]
        lasts = {p.is_contiguous(memory_format=torch.channels_last) for p in maps}
        assert lasts == {'channels last' in form}


def test_compiled_forms_are_compiled(monkeypatch, built):
    compiled = []
    monkeypatch.setattr(precision, 'compile_members', compiled.append)
    costs = measure_precisions(config(), batch_size=2, rounds=1, compiled=True)
    assert list(costs) == [*FORMS, *COMPILED]
    models = [model for model, _ in built]
    assert compiled == models[len(FORMS) :]
    assert all('compiled' in form for form in COMPILED)


def test_format_precisions(cells_of):
    table = format_precisions(dict(a=PrecisionCost(1.5, 1.0, 0.0), b=PrecisionCost(0.5, 3.0, 2e-3)))
    assert cells_of(table)[1:] == [
        ['a', '1.500', '1.00', '0.0e+00'],
        ['b', '0.500', '3.00', '2.0e-03'],
    ]


@pytest.mark.parametrize('number', ['batch_size', 'rounds'])
def test_numbers_below_one_raise(number):
    with pytest.raises(ValueError, match=f'{number}: expected at least 1, got 0'):
        measure_precisions(config(), **{'batch_size': 2, 'rounds': 1, number: 0})
