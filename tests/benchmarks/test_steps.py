from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks import steps, timing
from benchmarks.steps import (
    MethodCost,
    StepCost,
    format_costs,
    format_method_costs,
    measure_methods,
    measure_steps,
)

CONFIGS = Path(__file__).parents[2] / 'configs'


def study(*names):
    return {name: Config.fromfile(CONFIGS / 'study' / f'{name}.py') for name in names}


def test_format_costs(cells_of):
    costs = dict(
        classroom=StepCost(3.3, 240.0), teacher=StepCost(2.0, 100.0), student_1=StepCost(1.0, 100.0)
    )
    assert cells_of(format_costs(costs))[1:] == [
        ['teacher', '2.000', '100'],
        ['student_1', '1.000', '100'],
        ['sum of the members', '3.000', '200'],
        ['classroom', '3.300', '240'],
        ['ratio', '1.100', '1.200'],
    ]


def test_baseline_raises():
    config = Config.fromfile(CONFIGS / 'baselines' / 'r18_lgg.py')
    with pytest.raises(
        TypeError, match='expected a classroom, got a single network in this config'
    ):
        measure_steps(config, batch_size=2, rounds=1)


@pytest.mark.slow
def test_classroom_and_all_members_are_measured(monkeypatch):
    (config,) = study('ham64_kd').values()

    def measure(function, config, name, batch_size):
        """Start a process only for the teacher, which saves two others."""
        if name == 'teacher':
            return timing.peak_memory(function, config, name, batch_size)
        function(config, name, batch_size)
        return 1.0

    monkeypatch.setattr(steps, 'peak_memory', measure)
    costs = measure_steps(config, batch_size=2, rounds=1)
    assert list(costs) == ['classroom', 'teacher', 'student']
    assert all(cost.seconds > 0 and cost.memory > 0 for cost in costs.values())


def test_format_method_costs(cells_of):
    costs = dict(
        kd=MethodCost(StepCost(2.0, 200.0), 1_000_000),
        at=MethodCost(StepCost(2.5, 210.0), 1_000_000),
        vid=MethodCost(StepCost(3.0, 300.0), 3_500_000),
    )
    assert cells_of(format_method_costs(costs))[1:] == [
        ['kd', '2.000', '1.00', '200', '1.00', '0'],
        ['at', '2.500', '1.25', '210', '1.05', '0'],
        ['vid', '3.000', '1.50', '300', '1.50', '2,500,000'],
    ]


def test_method_costs_include_added_parameters(monkeypatch):
    configs = study('ham64_kd', 'ham64_fitnet', 'ham64_simkd')
    monkeypatch.setattr(steps, 'peak_memory', lambda _, *args: args)  # saves three processes
    costs = measure_methods(configs, batch_size=2, rounds=1)
    assert list(costs) == list(configs)
    for name, cost in costs.items():
        assert cost.step.seconds > 0
        assert cost.step.memory == (configs[name], 'classroom', 2)
    plain, fitnet, simkd = (cost.parameters for cost in costs.values())
    assert fitnet - plain == 12 * 24 + 24 + 2 * 24  # 1x1 convolution, its bias, batch norm
    # 1x1, 3x3 and 1x1 convolutions to 48, 48 and 96 channels without biases, with batch norms.
    assert simkd - plain == 96 * 48 + 9 * 48**2 + 48 * 96 + 2 * (48 + 48 + 96)


def test_baseline_among_methods_raises():
    with pytest.raises(TypeError, match='got a single network in ham64_student'):
        measure_methods(study('ham64_kd', 'ham64_student'), batch_size=2, rounds=1)


def test_different_tasks_or_input_sizes_raise():
    message = r'got ham64_kd: classification \(64, 64\), lgg64_kd: segmentation \(64, 64\)'
    with pytest.raises(ValueError, match=message):
        measure_methods(study('ham64_kd', 'lgg64_kd'), batch_size=2, rounds=1)
    configs = study('ham64_kd', 'ham64_at')
    configs['ham64_at'].model.input_size = (96, 64)
    with pytest.raises(ValueError, match=r'ham64_at: classification \(96, 64\)'):
        measure_methods(configs, batch_size=2, rounds=1)


def test_errors_name_the_config():
    configs = study('ham64_kd', 'ham64_at', 'ham64_semckd')
    with pytest.raises(ValueError, match='ham64_semckd: .* batch_size=16 samples, got 17'):
        measure_methods(configs, configs['ham64_semckd'].train_dataloader.batch_size + 1, rounds=1)
    configs['ham64_at'].model.transfers[1].weight = -1.0
    with pytest.raises(ValueError, match=r'ham64_at: .*weight.* -1\.0'):
        measure_methods(configs, batch_size=2, rounds=1)


@pytest.mark.parametrize('number', ['batch_size', 'rounds'])
def test_numbers_below_one_raise(number):
    config = study('ham64_kd')['ham64_kd']
    with pytest.raises(ValueError, match=f'{number}: expected at least 1, got 0'):
        measure_steps(config, **{'batch_size': 2, 'rounds': 1, number: 0})
