from pathlib import Path

import pytest

from mmkdml.apis.prediction.case_files import channel_file, check_channels, grouped_channels


@pytest.mark.parametrize(
    ('name', 'parts'),
    [
        ('a_0000.nii.gz', ('a', 0, '.nii.gz')),
        ('a.b_c_0012.nii', ('a.b_c', 12, '.nii')),
        ('A_0001.NII.GZ', ('A', 1, '.NII.GZ')),
        ('a_0000_0001.nii', ('a_0000', 1, '.nii')),
        ('a_000.nii', None),
        ('a_00001.nii', None),
        ('_0000.nii', None),
        ('a_0000.png', None),
        ('a_٠٠٠١.nii', None),  # digits of another script
    ],
)
def test_names_of_channels(name, parts):
    assert channel_file(name) == parts


def test_channels_of_a_case_are_grouped_by_folder():
    names = ['x/b_0001.nii', 'x/a_0000.nii', 'y/b_0000.nii', 'x/b_0000.nii.gz', 'scan_2019.nii']
    files = [*map(Path, names), None, Path('scan_2020.nii'), Path('x/c.nii')]
    assert grouped_channels(files) == [[3, 0], [1], [2], [4], [6], [5], [7]]


@pytest.mark.parametrize(
    ('names', 'channels', 'allowed', 'facts'),
    [
        ('a_0000 a_0002', (1, 1), (3,), ['expected 3 channels', 'missing a_0001.nii']),
        ('a_0000', (1,), (2,), ['a_0000.nii: expected 2 channels', 'missing a_0001.nii']),
        ('a_0001', (1,), (2,), ['missing a_0000.nii']),
        ('a_0000 a_0001', (1, 1), (1,), ['expected 1 channel,', 'unexpected a_0001.nii']),
        ('a_0000 a_0001', (1, 1), (1, 3), ['1 or 3 channels', 'missing a_0002.nii']),
        ('a_0000 a_0003', (1, 1), (2,), ['missing a_0001.nii; unexpected a_0003.nii']),
        ('a_0000 a_0000', (1, 1), (2,), ['missing a_0001.nii; unexpected a_0000.nii']),
        ('a', (1,), (2,), ['a.nii: expected 2 channels', 'got 1']),
        ('a', (4,), (2,), ['a.nii: expected 2 channels', 'got 4 in the fourth dimension']),
        ('a_0000 a_0001', (1, 5), (2,), ["one channel each, got more in ['a_0001.nii']"]),
    ],
)
def test_other_channels_raise(names, channels, allowed, facts):
    files = [Path(f'{name}.nii') for name in names.split()]
    with pytest.raises(ValueError, match='channel') as refused:
        check_channels(files, channels, allowed)
    for fact in facts:
        assert fact in str(refused.value)
    for number in {1, 2, 3} - set(allowed):
        check_channels([Path(f'b_{one:04}.nii') for one in range(number)], [1] * number, (number,))
        check_channels([Path('b.nii')], [number], (number,))
