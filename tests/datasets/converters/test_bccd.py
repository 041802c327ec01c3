import numpy as np
import pytest

from mmkdml.datasets.converters import convert_bccd

SETS = dict(train=['Blood_0', 'Blood_1'], val=['Blood_2'], test=['Blood_3'])


@pytest.fixture
def source(tmp_path, save):
    """Four images in the layout of BCCD, one with an empty box."""
    root = tmp_path / 'BCCD'
    for folder in ('Annotations', 'ImageSets/Main'):
        (root / folder).mkdir(parents=True)
    for split, names in SETS.items():
        (root / 'ImageSets' / 'Main' / f'{split}.txt').write_text('\n'.join(names) + '\n')
        for name in names:
            save(root / 'JPEGImages' / f'{name}.jpg', np.zeros((48, 64, 3)))
            corners = (0, 0, 64, 48), (504, 337, 504, 337) if split == 'val' else (5, 5, 9, 9)
            objects = ''.join(
                f'<object><name>{kind}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>'
                f'<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>'
                for kind, (x1, y1, x2, y2) in zip(('Platelets', 'RBC'), corners, strict=True)
            )
            (root / 'Annotations' / f'{name}.xml').write_text(
                f'<annotation><filename>{name}.jpg</filename><path>/home/pi/{name}.jpg</path>'
                f'<size><width>64</width><height>48</height></size>{objects}</annotation>'
            )
    return root


def test_published_split(source, tmp_path, run_tool, capsys):
    run_tool('bccd.py', source, '--out', tmp_path / 'out')
    printed = capsys.readouterr()
    assert [line.split() for line in printed.out.splitlines()[:4]] == [
        ['split', 'images', 'groups', 'boxes', 'RBC', 'WBC', 'Platelets'],
        ['train', '2', '2', '4', '2', '0', '2'],
        ['val', '1', '1', '1', '0', '0', '1'],
        ['test', '1', '1', '2', '1', '0', '1'],
    ]
    assert '1 of 8 boxes are empty and dropped' in printed.err
    assert 'r50_r18x2_v1_bccd.py' in printed.out


def test_random_split(source, tmp_path):
    with pytest.warns(UserWarning, match='empty and dropped'):
        splits = convert_bccd(source, tmp_path / 'out', split='random', ratios=(2, 1, 1), seed=1)
    assert {name: len(rows) for name, rows in splits.items()} == dict(train=2, val=1, test=1)
    with pytest.raises(ValueError, match='split'):
        convert_bccd(source, tmp_path / 'out', split='other')


@pytest.mark.filterwarnings('ignore:1 of 8 boxes are empty')
def test_folds_need_a_random_division(source, tmp_path):
    with pytest.raises(ValueError, match='folds: expected none with published .* got 2'):
        convert_bccd(source, tmp_path, folds=2)
    splits = convert_bccd(source, tmp_path, split='random', ratios=(50, 50, 0), folds=2)
    assert sum(len(splits[f'fold_{fold}/test']) for fold in range(2)) == 4
