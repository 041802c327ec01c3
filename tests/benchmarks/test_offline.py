from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks.offline import OfflineCost, format_offline_cost, measure_offline

STUDY = Path(__file__).parents[2] / 'configs' / 'study'


def config(name):
    return Config.fromfile(STUDY / f'{name}.py')


def test_format_offline_cost(cells_of):
    text = format_offline_cost(OfflineCost(2.0, 2.5, 1.0, kib_per_image=256.25, difference=3.21e-8))
    assert cells_of(text)[1:] == [
        ['run', '2.000', '1.000'],
        ['run and write the cache', '2.500', '1.250'],
        ['read from the cache', '1.000', '0.500'],
    ]
    assert text.endswith(
        '\n256.25 KiB on disk per image\nlargest relative difference of the losses: 3.2e-08'
    )


@pytest.mark.parametrize(
    ('name', 'dtype', 'kib', 'gap'),
    # 64x64 logits; 7 logits and 96 maps of 2x2 in half precision.
    [('lgg64_kd', None, 64 * 64 * 4 / 1024, 1e-6), ('ham64_srrl', 'float16', 0.76, 1e-2)],
)
def test_steps_are_measured(name, dtype, kib, gap):
    cost = measure_offline(config(name), batch_size=2, rounds=1, dtype=dtype)
    assert min(cost.run, cost.kept, cost.found) > 0
    assert cost.kib_per_image == pytest.approx(kib, abs=0.01)
    assert 0 <= cost.difference < gap
    assert dtype is None or cost.difference > 1e-7


def test_config_without_frozen_members_raises():
    learning = config('lgg64')
    for one in (learning, config('lgg64_student')):
        with pytest.raises(TypeError, match='expected a classroom with frozen members'):
            measure_offline(one, batch_size=2, rounds=1)


@pytest.mark.parametrize('number', ['batch_size', 'rounds'])
def test_numbers_below_one_raise(number):
    with pytest.raises(ValueError, match=f'{number}: expected at least 1, got 0'):
        measure_offline(config('ham64_kd'), **{'batch_size': 2, 'rounds': 1, number: 0})
