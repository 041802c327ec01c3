from pathlib import Path

from mmengine.config import Config

from benchmarks.inference import InferenceCost, format_inference, measure_inference

STUDY = Path(__file__).parents[2] / 'configs' / 'study'


def test_format_inference(cells_of):
    costs = dict(teacher=InferenceCost(2.0, 1.0, 53, 1), student=InferenceCost(2.0, 2.0, 0, 0))
    assert cells_of(format_inference(costs))[1:] == [
        ['teacher', '52 of 53', '2.000', '1.000', '0.500'],
        ['student', '0 of 0', '2.000', '2.000', '1.000'],
        ['sum', '52 of 53', '4.000', '3.000', '0.750'],
    ]


def test_all_members_are_measured():
    config = Config.fromfile(STUDY / 'ham64_kd.py')
    costs = measure_inference(config, batch_size=2, rounds=1)
    assert list(costs) == ['teacher', 'student']
    for cost in costs.values():
        assert min(cost.plain, cost.fused) > 0
        assert cost.left == 0 < cost.norms
