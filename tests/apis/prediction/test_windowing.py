"""Chunked windowing against NumPy on all voxels at once."""

import numpy as np
import pytest

from mmkdml.apis.prediction import windowing
from mmkdml.apis.prediction.windowing import apply_window, percentiles


def draws(kind, number, seed):
    rng = np.random.default_rng(seed)
    drawn = {
        'normal': lambda: rng.normal(size=number) * 1000,
        'ties': lambda: rng.integers(-5, 5, number),
        'constant': lambda: np.full(number, -3.7),
        'far apart': lambda: np.exp(20 * rng.normal(size=number)),
        'scaled': lambda: rng.integers(0, 4000, number) * 1.7 - 1000,
    }
    return drawn[kind]().astype(np.float32)


@pytest.mark.parametrize('kind', ['normal', 'ties', 'constant', 'far apart', 'scaled'])
@pytest.mark.parametrize('number', [1, 2, 3, 10, 101, 1001, 20000])
def test_percentiles_equal_numpys_bit_for_bit(kind, number):
    for seed in range(3):
        voxels = draws(kind, number, seed)
        wanted = (0.5, 30, 99.5, 100)
        found = percentiles(lambda one=voxels: np.array_split(one, 3), wanted, 'x')
        assert found == np.percentile(voxels, wanted).tolist()


@pytest.mark.parametrize('window', [None, (-300.5, 410.25)])
@pytest.mark.parametrize('kept', [2**26, 10])
def test_chunked_scaling_equals_numpys(monkeypatch, window, kept):
    monkeypatch.setattr(windowing, '_KEPT', kept)
    voxels, passes = draws('scaled', 5000, 0), []

    def chunks():
        passes.append(1)
        return iter(np.array_split(voxels, 7))

    low, high = np.percentile(voxels, (0.5, 99.5)).tolist() if window is None else window
    scaled = ((voxels.clip(low, high) - low) / (high - low)).clip(0, 1)
    slices = apply_window(chunks, len(voxels), window, 'x')
    np.testing.assert_array_equal(slices, np.round(255 * scaled).astype(np.uint8))
    assert len(passes) == (1 if kept > 5000 or window else 3)
