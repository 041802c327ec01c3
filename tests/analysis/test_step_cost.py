from pathlib import Path

import pytest
from mmengine.config import Config

from mmkdml.analysis.step_cost import StepCost, format_costs, measure_steps

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_the_table_by_hand():
    costs = dict(
        classroom=StepCost(3.3, 240.0), teacher=StepCost(2.0, 100.0), student_1=StepCost(1.0, 100.0)
    )
    rows = {line[:22].strip(): line[22:].split() for line in format_costs(costs).splitlines()}
    assert rows['sum of the members'] == ['3.000', '200']
    assert rows['classroom'] == ['3.300', '240']
    assert rows['ratio'] == ['1.100', '1.200']


def test_a_baseline_is_refused():
    config = Config.fromfile(CONFIGS / 'baselines' / 'r18_lgg.py')
    with pytest.raises(TypeError, match='one network alone'):
        measure_steps(config, batch_size=2, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['kdml', 'kd_off'])
def test_every_member_and_the_classroom_are_measured(mode):
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    config.model.update(mode=mode)
    if mode == 'kd_off':
        config.model.weights.gamma = None
    costs = measure_steps(config, batch_size=2, rounds=1)
    assert list(costs) == ['classroom', 'teacher', 'student_1', 'student_2']
    assert all(cost.seconds > 0 and cost.memory > 0 for cost in costs.values())
