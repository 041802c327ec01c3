from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks.evaluation import EvaluationCost, format_evaluation, measure_evaluation
from mmkdml.apis import load_config

STUDY = Path(__file__).parents[2] / 'configs' / 'study'


@pytest.mark.parametrize(
    ('name', 'metrics'),
    [
        (
            'lgg64',
            ['MemberMetrics (ForegroundIoU)', 'Fidelity', 'Diversity', 'Calibration'],
        ),
        (
            'ham64_student',
            [
                'MemberMetrics (Accuracy, MacroPrecisionRecall)', 'Fidelity', 'Diversity',
                'Calibration', 'ConfusionMatrix',
            ],
        ),
    ],
)  # fmt: skip
def test_metrics_are_measured_together_and_by_themselves(name, metrics):
    config = load_config(STUDY / f'{name}.py', {})
    costs = measure_evaluation(config, batch_size=2, rounds=1, original_size=(40, 48))
    assert list(costs) == [
        'forward passes', 'test', *(f'test: {one}' for one in metrics), 'validation'
    ]  # fmt: skip
    assert costs['forward passes'].ratio == 1
    for cost in costs.values():
        assert cost.seconds == pytest.approx(cost.ratio * costs['forward passes'].seconds)


@pytest.mark.parametrize('numbers', [(0, 1), (1, 0)])
def test_invalid_numbers_raise(numbers):
    with pytest.raises(ValueError, match='at least 1, got'):
        measure_evaluation(Config(), *numbers)


def test_format_evaluation(cells_of):
    costs = dict(a=EvaluationCost(2.0, 1.0), b=EvaluationCost(0.25, 0.125))
    assert cells_of(format_evaluation(costs)) == [
        ['part', 'ratio', 'ms/batch'],
        ['a', '1.000', '2000.0'],
        ['b', '0.125', '250.0'],
    ]
