import json

import numpy as np
import pytest
from PIL import Image

from mmkdml.apis.cli.converters import summary
from mmkdml.datasets.class_masks import ClassTable
from mmkdml.datasets.converters import class_mask_rows, convert_folders
from mmkdml.datasets.converters.mask_folders import strata
from mmkdml.datasets.splits import SplitRow, read_split

CLASSES = ('background', 'liver', 'kidney', 'lesion')
TABLE = ClassTable((0, 1, 2, 3), ignore=(255,))


@pytest.fixture
def organs(tmp_path, save):
    """Twenty-four images of 12 patients: liver in all, kidney in each second, lesion in 3."""
    source = tmp_path / 'organs'
    for place in range(24):
        mask = np.zeros((6, 4), np.uint8)
        mask[0] = 255
        mask[1] = 1
        mask[2, :2] = 2 * (place % 2)
        mask[3, 0] = 3 * (place in (0, 9, 18))
        save(source / 'images' / f'p{place // 2:02}_{place}.png', np.full((6, 4, 3), place))
        save(source / 'masks' / f'p{place // 2:02}_{place}.png', mask)
    (source / 'classes.json').write_text(json.dumps(CLASSES))
    return source


def convert(source, out, **options):
    return convert_folders(
        source, out, 'images', 'masks', classes='classes.json', ignore=['255'], **options
    )


def test_labels_are_the_rarest_classes(organs):
    rows, pixels = class_mask_rows(organs, 'images', 'masks', TABLE, CLASSES)
    assert [row.label for row in rows] == [
        3 if place in (0, 9, 18) else 2 if place % 2 else 1 for place in range(24)
    ]
    assert rows[9].mask == 'masks/p04_9.png'
    # Four of 24 pixels are ignored.
    assert pixels['p00_0'].tolist() == [20 - 4 - 1, 4, 0, 1]
    assert pixels['p00_1'].tolist() == [20 - 4 - 2, 4, 2, 0]


def test_manifest_has_classes_values_and_counts(organs, tmp_path):
    splits = convert(organs, tmp_path / 'out', group_regex=r'(p\d+)_', ratios=(50, 25, 25))
    info = json.loads((tmp_path / 'out' / 'splits.json').read_text())
    assert info['classes'] == [*CLASSES]
    assert info['mask_table'] == dict(values=[0, 1, 2, 3], ignore=[255], colors=None)
    counts = info['mask_counts']
    assert sum(part['liver']['images'] for part in counts.values()) == 24
    assert sum(part['kidney']['pixels'] for part in counts.values()) == 12 * 2
    # Each part has a patient with a lesion, no patient is in two.
    assert [counts[part]['lesion']['images'] for part in splits] == [1, 1, 1]
    groups = [{row.group for row in part} for part in splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 12
    assert read_split(tmp_path / 'out' / 'train.csv') == splits['train']
    text = summary(splits, info['classes'], None, counts)
    number = counts['train']
    total = sum(one['pixels'] for one in number.values())
    assert f'{number["liver"]["images"]} ({100 * number["liver"]["pixels"] / total:.2g} %)' in text
    assert text.splitlines()[0].split() == ['split', 'images', 'groups', *CLASSES]


def rows_of(labels):
    return [SplitRow(f'{i}', f'{i}.png', group, label) for i, (group, label) in enumerate(labels)]


@pytest.mark.parametrize(
    ('labels', 'parts', 'expected'),
    [
        # The rarest class of a group decides, and the background last.
        ('a1 a2 b1 b0 c0 c0', 1, dict(a=2, b=1, c=0)),
        # A class in fewer groups than parts is united with the next larger stratum.
        ('a1 b1 c1 d2 e2 f2 g2 h3', 3, dict(a=1, b=1, c=1, d=2, e=2, f=2, g=2, h=1)),
        ('a1 b2 c3', 3, dict(a=2, b=2, c=2)),
    ],
)
def test_strata(labels, parts, expected):
    found = strata(rows_of([(one[0], int(one[1])) for one in labels.split()]), parts)
    assert found == expected


def test_all_problems_are_listed(organs, save):
    masks = organs / 'masks'
    save(masks / 'p00_0.png', np.full((6, 4), 7))
    save(masks / 'p00_1.png', np.zeros((4, 6)))
    Image.fromarray(np.full((6, 4, 3), 9, np.uint8)).save(masks / 'p01_2.png')
    (masks / 'p01_3.png').unlink()
    (masks / 'p02_4.png').write_bytes(b'')
    with pytest.raises(ValueError, match='Invalid source folder') as raised:
        class_mask_rows(organs, 'images', 'masks', TABLE, CLASSES)
    lines = str(raised.value).splitlines()[1:]
    assert [line.split(':')[0] for line in lines] == [
        '  - images/p01_3.png',
        *(f'  - masks/{name}.png' for name in ('p00_0', 'p00_1', 'p01_2', 'p02_4')),
    ]
    assert '7 (24 pixels)' in lines[1]


def test_absent_classes_and_ignored_masks_are_named(organs, save):
    for place in (0, 9, 18):
        save(organs / 'masks' / f'p{place // 2:02}_{place}.png', np.full((6, 4), 255))
    with pytest.warns(UserWarning, match='lesion|ignored') as caught:
        rows, _ = class_mask_rows(organs, 'images', 'masks', TABLE, CLASSES)
    assert [str(one.message) for one in caught] == [
        'no mask has a pixel of lesion',
        '3 of 24 masks are ignored entirely, such as masks/p00_0.png',
    ]
    assert rows[0].label == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(ignore=['255']), r'--ignore.*255.*--classes'),
        (dict(classes='classes.json'), "expected both images and masks, .*'classes.json'"),
        (dict(images='images', masks='masks', classes='classes.json'), r'got 255 \(4 pixels\)'),
    ],
)
def test_options_that_do_not_fit_raise(organs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        convert_folders(organs, tmp_path / 'out', **options)


def test_tool(organs, tmp_path, run_tool, capsys):
    places = ('--images', 'images', '--masks', 'masks', '--classes', 'classes.json')
    run_tool('folders.py', organs, '--out', tmp_path / 'out', *places, '--ignore', 255)
    assert capsys.readouterr().out.splitlines()[0].split()[3:] == [*CLASSES]
