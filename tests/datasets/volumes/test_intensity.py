import json
from dataclasses import replace

import numpy as np
import pytest

from mmkdml.datasets.volumes import Case
from mmkdml.datasets.volumes.intensity import (
    foreground_statistics,
    manifest_intensity,
    normalized,
    sampling_step,
    scheme_of,
    training_intensity,
)

CASE = Case('a', ['CT', 'T1'], [2, 1, 0], [], [], [1, 1, 1], [], [{}, None], [], {})
VALUES = np.array([[-3, 0], [7, 300]], np.int16)


@pytest.mark.parametrize(
    ('name', 'scheme'),
    [('CT', 'ct'), ('ct', 'ct'), ('T1', 'zscore'), ('zscore', 'zscore'), ('noNorm', 'none'),
     ('none', 'zscore'), ('rescale_to_0_1', 'rescale_to_0_1'), ('RGB_to_0_1', 'rgb_to_0_1')],
)  # fmt: skip
def test_scheme_follows_the_name_as_in_nnunet(name, scheme):
    """nnU-Net's table has no name ``none``, which is z-scored like any other."""
    assert scheme_of(name) == scheme


def test_schemes_follow_their_formulas():
    statistics = (2.0, 4.0, -3.0, 300.0)
    ct = dict(scheme='ct', mean=1.0, std=2.0, low=-1.0, high=9.0)
    cases = {'none': VALUES, 'zscore': (VALUES - 2) / 4, 'rescale_to_0_1': (VALUES + 3) / 303}
    for scheme, expected in cases.items():
        found = normalized(VALUES, dict(scheme=scheme), statistics)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(normalized(VALUES, ct, None), [[-1, -0.5], [3, 4]])
    rgb = normalized(np.array([0, 51, 255], np.uint8), dict(scheme='rgb_to_0_1'), None)
    np.testing.assert_allclose(rgb, [0, 0.2, 1], rtol=1e-6)
    assert VALUES.tolist() == [[-3, 0], [7, 300]]  # unchanged


def test_constant_channels_become_zero_instead_of_nan():
    constant = np.full((2, 2), 5.0, np.float32)
    for scheme in ('zscore', 'rescale_to_0_1'):
        assert (normalized(constant, dict(scheme=scheme), (5, 0, 5, 5)) == 0).all()


def test_missing_statistics_and_other_ranges_are_refused():
    for scheme, statistics in (('zscore', None), ('rescale_to_0_1', (0.0, 1.0))):
        with pytest.raises(ValueError, match=r'case_intensity of channel T1'):
            normalized(VALUES, dict(name='T1', scheme=scheme), statistics)
    with pytest.raises(ValueError, match=r'channel R.*\[0, 255\], got \[-3, 300\]'):
        normalized(VALUES, dict(name='R', scheme='rgb_to_0_1'), None)


def test_training_intensity_is_that_of_equal_samples_of_all_cases():
    """Oracle: nnU-Net's, which draws voxels with replacement, equally many of each case."""
    random = np.random.default_rng(0)
    values = [random.gamma(2, 100, 5000), random.normal(300, 20, 300), np.zeros(0)]
    cases = [replace(CASE, foreground=[foreground_statistics(one), None]) for one in values]
    ct, mri = training_intensity(cases)
    drawn = np.concatenate([random.choice(one, 400_000) for one in values[:2]])
    assert (ct['name'], ct['scheme']) == ('CT', 'ct')
    np.testing.assert_allclose((ct['mean'], ct['std']), (drawn.mean(), drawn.std()), rtol=3e-3)
    np.testing.assert_allclose(
        (ct['low'], ct['high']), np.percentile(drawn, (0.5, 99.5)), rtol=2e-2
    )
    assert mri == dict(name='T1', scheme='zscore')
    with pytest.raises(ValueError, match='expected foreground .*CT, got none in 1 training'):
        training_intensity(cases[2:])


def test_statistics_of_one_case_are_exact():
    values = np.random.default_rng(0).gamma(2, 100, 5000)
    ct = training_intensity([replace(CASE, foreground=[foreground_statistics(values), None])])[0]
    expected = (values.mean(), values.std(), *np.percentile(values, (0.5, 99.5)))
    np.testing.assert_allclose([ct[k] for k in ('mean', 'std', 'low', 'high')], expected, rtol=1e-6)


def test_number_of_sampled_voxels_is_limited():
    assert [sampling_step(n) for n in (0, 10, 1_000_000, 1_000_001)] == [1, 1, 1, 2]


def test_manifest_has_intensities_per_fold(tmp_path):
    assert manifest_intensity(tmp_path / 'train.csv') is None
    own = [[dict(name='T1', scheme='zscore')], [dict(name='T1', scheme='none')]]
    (tmp_path / 'splits.json').write_text(json.dumps(dict(intensity=own[0])))
    assert manifest_intensity(tmp_path / 'train.csv') == own[0]
    (tmp_path / 'splits.json').write_text(json.dumps(dict(intensity=own)))
    (tmp_path / 'fold_1').mkdir()
    assert manifest_intensity(tmp_path / 'fold_1' / 'train.csv') == own[1]
    assert manifest_intensity(tmp_path / 'train.csv') is None
