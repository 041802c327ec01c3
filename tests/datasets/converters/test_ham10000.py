import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from mmkdml.datasets.converters import convert_ham10000, ham10000_rows
from mmkdml.datasets.converters.ham10000 import DIAGNOSES
from mmkdml.datasets.splits import read_split, refuse_shared_groups

COLUMNS = 'lesion_id,image_id,dx,dx_type,age,sex,localization'
# Images per diagnosis, two per lesion.
SIZES = dict(akiec=8, bcc=8, bkl=8, df=6, mel=10, nv=20, vasc=6)
HALF = np.arange(48).reshape(6, 8) < 24


def write_metadata(source, lines, columns=COLUMNS):
    (source / 'HAM10000_metadata.csv').write_text('\n'.join([columns, *lines]) + '\n')


@pytest.fixture(scope='session')
def lines():
    images = [(dx, place) for dx, size in SIZES.items() for place in range(size)]
    return [
        f'HAM_{dx}{place // 2},ISIC_{number:07},{dx},histo,50.0,male,back'
        for number, (dx, place) in enumerate(images)
    ]


@pytest.fixture
def ham(tmp_path, save, lines):
    """Published layout: two folders of images and one of masks."""
    source = tmp_path / 'published'
    for number in range(len(lines)):
        name = f'ISIC_{number:07}'
        part = source / f'HAM10000_images_part_{1 + number % 2}'
        save(part / f'{name}.jpg', np.full((6, 8, 3), 9))
        save(source / 'segmentations' / f'{name}_segmentation.png', 255 * HALF)
    write_metadata(source, lines)
    return source


@pytest.fixture
def first(ham):
    """Paths of the first image and its mask."""
    name = 'ISIC_0000000'
    return (
        ham / 'HAM10000_images_part_1' / f'{name}.jpg',
        ham / 'segmentations' / f'{name}_segmentation.png',
    )


def test_rows_from_published_layout(ham):
    rows = {row.id: row for row in ham10000_rows(ham)}
    assert len(rows) == sum(SIZES.values())
    row = rows['ISIC_0000009']
    assert (row.path, row.mask) == ('HAM10000_images_part_2/ISIC_0000009.jpg', None)
    assert (row.group, row.label) == ('HAM_bcc0', 1)
    assert {DIAGNOSES[r.label] for r in rows.values()} == set(SIZES)
    row = next(r for r in ham10000_rows(ham, masks=True) if r.id == 'ISIC_0000009')
    assert row.mask == 'segmentations/ISIC_0000009_segmentation.png'
    assert (row.group, row.label) == ('HAM_bcc0', 1)


def test_images_in_one_folder_or_in_two_parts(ham):
    rows = ham10000_rows(ham)
    copy = ham / 'the same again'
    (ham / 'HAM10000_images_part_1').rename(copy)
    for image in (ham / 'HAM10000_images_part_2').iterdir():
        image.rename(copy / image.name)
    (ham / 'HAM10000_images_part_2').rmdir()
    flat = ham10000_rows(ham)
    assert [(r.id, r.group, r.label) for r in flat] == [(r.id, r.group, r.label) for r in rows]
    assert {r.path.split('/')[0] for r in flat} == {'the same again'}
    for part in (1, 2):
        (ham / f'HAM10000_images_part_{part}').mkdir()
    for number, image in enumerate(sorted(copy.iterdir())):
        (ham / f'HAM10000_images_part_{1 + number % 2}' / image.name).write_bytes(
            image.read_bytes()
        )
    assert ham10000_rows(ham) == rows


def test_palette_masks_are_read_and_hidden_files_skipped(ham, first, save):
    image = Image.fromarray((7 * HALF).astype(np.uint8), 'P')
    image.putpalette([255] * 3 + [128] * 18 + [0] * 3)  # index 0 is white, 7 is black
    image.save(first[1])
    save(first[1].with_name('._ISIC_0000000_segmentation.png'), HALF)
    assert len(ham10000_rows(ham, masks=True)) == sum(SIZES.values())
    image.putpalette([255] * 3 + [128] * 18 + [60] * 3)
    image.save(first[1])
    with pytest.raises(ValueError, match='0000000_segmentation.png: .* got the values 60, 255'):
        ham10000_rows(ham, masks=True)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda image, mask, save: image.unlink(), 'metadata.csv: no image of ISIC_0000000$'),
        (lambda image, mask, save: mask.unlink(), 'metadata.csv: no mask of ISIC_0000000$'),
        (
            lambda image, mask, save: save(image.with_name('ISIC_9.jpg'), np.zeros((6, 8, 3))),
            'HAM10000_images_part_1/ISIC_9.jpg: no row in HAM10000_metadata.csv',
        ),
        (
            lambda image, mask, save: save(mask.with_name('X_segmentation.png'), HALF),
            'segmentations/X_segmentation.png: no row in',
        ),
        (
            lambda image, mask, save: save(mask.parent / 'b' / mask.name, HALF),
            'b/ISIC_0000000_segmentation.png: also in segmentations|'
            'segmentations/ISIC_0000000_segmentation.png: also in b',
        ),
        (
            lambda image, mask, save: save(mask, np.zeros((8, 6))),
            '- segmentations/ISIC_0000000_segmentation.png: the mask is 6x8, its image 8x6',
        ),
        (
            lambda image, mask, save: save(mask, 100 * HALF),
            'segmentations/ISIC_0000000_segmentation.png: expected a binary .* values 0, 100',
        ),
        (
            lambda image, mask, save: image.write_bytes(image.read_bytes()[:300]),
            '- HAM10000_images_part_1/ISIC_0000000.jpg: unreadable image',
        ),
        (
            lambda image, mask, save: save(image, np.zeros((6, 8))),
            'ISIC_0000000.jpg: expected an image of mode RGB, got L',
        ),
    ],
)
def test_invalid_files_raise(ham, first, save, tmp_path, damage, message):
    damage(*first, save)
    with pytest.raises(ValueError, match=message):
        convert_ham10000(ham, tmp_path / 'out', 'seg')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('line', 'message'),
    [
        ('HAM_x,ISIC_1,NV,,,,', "line 3: expected one of akiec, .* vasc as dx, got 'NV'"),
        ('HAM_akiec0,ISIC_1,mel,,,,', 'line 3: lesion HAM_akiec0 is mel, but akiec above'),
        ('HAM_x,ISIC_0000000,mel,,,,', 'line 3: duplicate image_id ISIC_0000000'),
        (',ISIC_1,mel,,,,', 'line 3: lesion_id or image_id is empty'),
        ('HAM_x, ,mel,,,,', 'line 3: lesion_id or image_id is empty'),
        ('HAM_x,ISIC_1,,,,,', "as dx, got ''"),
    ],
)
def test_invalid_metadata_rows_raise(ham, lines, line, message):
    write_metadata(ham, [lines[0], line, *lines[1:]])
    with pytest.raises(ValueError, match=f'HAM10000_metadata.csv, {message}|{message}'):
        ham10000_rows(ham)


def test_problems_are_reported_together(ham, lines):
    write_metadata(ham, lines[3:])
    with pytest.raises(ValueError, match='Invalid source folder .*published:') as error:
        ham10000_rows(ham)
    assert str(error.value).count('no row in HAM10000_metadata.csv') == 3


def test_invalid_metadata_raises(ham, lines):
    write_metadata(ham, lines, columns='lesion,image_id,dx,a,b,c,d')
    with pytest.raises(ValueError, match="lesion_id,image_id,dx, got 'lesion,.* without lesion_id"):
        ham10000_rows(ham)
    write_metadata(ham, [*lines, '1,2,3,4,5,6,7,8,9'])
    with pytest.raises(
        ValueError, match='HAM10000_metadata.csv, line 68: expected 7 values, got 9'
    ):
        ham10000_rows(ham)
    (ham / 'HAM10000_metadata.csv').write_bytes(b'\xff\xfe,')
    with pytest.raises(ValueError, match='HAM10000_metadata.csv: .*UTF-8'):
        ham10000_rows(ham)
    (ham / 'HAM10000_metadata.csv').unlink()
    with pytest.raises(FileNotFoundError, match='no HAM10000_metadata.csv in '):
        ham10000_rows(ham)


def test_missing_source_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match='x is not a folder; .* HAM10000_metadata.csv'):
        ham10000_rows(tmp_path / 'x')
    write_metadata(tmp_path, [])
    with pytest.raises(ValueError, match='no <image_id>.jpg in '):
        ham10000_rows(tmp_path)


def per_class(rows):
    counts = dict.fromkeys(DIAGNOSES, 0)
    for row in rows:
        counts[DIAGNOSES[row.label]] += row.repeats
    return counts


def test_lesions_stay_together_with_class_proportions(ham, tmp_path):
    splits = convert_ham10000(ham, tmp_path / 'out', 'seg', ratios=(2, 1, 1))
    groups = [{row.group for row in part} for part in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == sum(SIZES.values()) // 2
    for name, share in dict(train=0.5, val=0.25, test=0.25).items():
        for dx, count in per_class(splits[name]).items():
            assert abs(count - share * SIZES[dx]) <= 1  # half a lesion
    # Both tasks have the same images in each split.
    again = convert_ham10000(ham, tmp_path / 'cls', 'cls', balance='none', ratios=(2, 1, 1))
    assert {n: [r.id for r in p] for n, p in again.items()} == {
        n: [r.id for r in p] for n, p in splits.items()
    }


def test_split_by_image_divides_lesions(ham, tmp_path):
    with pytest.warns(UserWarning, match=r'15 of 24 lesions in val also have images in train\.'):
        splits = convert_ham10000(ham, tmp_path, 'seg', split_by='image', ratios=(1, 1, 0))
    assert per_class(splits['train']) == {dx: size // 2 for dx, size in SIZES.items()}
    train, val = ({row.group for row in part} for part in splits.values())
    assert train & val


@pytest.mark.parametrize(('balance', 'target'), [(None, 5), ('mean', 5), (9, 9), (1, 1)])
def test_only_training_split_is_balanced(ham, tmp_path, balance, target):
    convert_ham10000(ham, tmp_path, 'cls', balance=balance, ratios=(2, 1, 1))
    train, val, test = (read_split(tmp_path / f'{part}.csv') for part in ('train', 'val', 'test'))
    assert per_class(train) == dict.fromkeys(DIAGNOSES, target)
    assert all(row.repeats == 1 for row in (*val, *test))
    info = json.loads((tmp_path / 'splits.json').read_text())
    assert info['balanced_to'] == target
    assert info['images_per_class']['val'] == per_class(val)
    before = info['images_per_class']['train']
    assert sum(before.values()) + len(val) + len(test) == sum(SIZES.values())
    images = {dx: sum(DIAGNOSES[row.label] == dx for row in train) for dx in DIAGNOSES}
    assert images == {dx: min(size, target) for dx, size in before.items()}


def test_balance_none_has_no_repeats(ham, tmp_path):
    convert_ham10000(ham, tmp_path / 'cls', 'cls', balance='none')
    convert_ham10000(ham, tmp_path / 'seg', 'seg')
    for task in ('cls', 'seg'):
        assert 'repeats' not in (tmp_path / task / 'train.csv').read_text()
        assert 'balanced_to' not in json.loads((tmp_path / task / 'splits.json').read_text())


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(task='both'), "task: .* cls, seg, got 'both'"),
        (dict(split_by='patient'), "split_by: .* lesion, image, got 'patient'"),
        (dict(balance='most'), "balance: .* mean, none, got 'most'"),
        (dict(balance=0), 'at least 1 sample of each class, got 0'),
    ],
)
def test_invalid_arguments_raise(ham, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        convert_ham10000(ham, tmp_path / 'out', **{'task': 'cls', **arguments})
    assert not (tmp_path / 'out').exists()


def test_tool_writes_equal_files(ham, tmp_path, run_tool, files_in, monkeypatch, capsys):
    before = files_in(ham)
    for out in ('one', 'two'):
        run_tool('ham10000.py', ham, '--task', 'cls', '--out', tmp_path / out, '--balance', 4)
    assert files_in(ham) == before
    assert files_in(tmp_path / 'one') == files_in(tmp_path / 'two')
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[0] == ['split', 'images', 'groups', 'samples', *DIAGNOSES]
    assert table[1][0] == 'train'
    assert table[1][3:] == ['28'] + ['4'] * 7
    assert table[6][:3] == ['python', 'tools/train.py', 'configs/kdml/r50_r18x2_v3_ham10000_cls.py']

    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'ham10000').mkdir(parents=True)
    ham.rename(tmp_path / 'data' / 'ham10000' / 'published')
    run_tool(
        *('ham10000.py', 'data/ham10000/published', '--task', 'seg'),
        *('--out', 'data/ham10000/splits_seg'),
    )
    assert capsys.readouterr().out.endswith(
        'next:\nmmkdml train mmkdml::kdml/r50_r18x2_v3_ham10000_seg.py\n'
    )
    with pytest.raises(SystemExit, match="ham10000.py: error: .*mean, none, got 'some'"):
        run_tool(
            *('ham10000.py', 'data/ham10000/published', '--task', 'seg'),
            *('--out', 'x', '--balance', 'some'),
        )


def test_download_of_dataverse_on_a_mac(ham, lines, tmp_path, save):
    rows = ham10000_rows(ham, masks=True)
    text = '\n'.join([COLUMNS, *lines]).replace(',', '\t').replace('HAM_akiec0', '"HAM_akiec0"')
    (ham / 'HAM10000_metadata.csv').unlink()
    (ham / 'HAM10000_metadata.tab').write_text(f'{text}\n')
    for image in sorted((ham / 'HAM10000_images_part_1').iterdir()):
        image.rename(image.with_suffix('.JPG'))
    save(ham / '__MACOSX' / 'segmentations' / 'X_segmentation.png', HALF)
    (ham / 'segmentations').rename(tmp_path / 'masks')
    (ham / 'segmentations').symlink_to(tmp_path / 'masks')
    found = ham10000_rows(ham, masks=True)
    assert [(r.id, r.group, r.label) for r in found] == [(r.id, r.group, r.label) for r in rows]
    (ham / 'HAM10000_images_part_1' / 'ISIC_0000000.JPG').unlink()
    with pytest.raises(ValueError, match='HAM10000_metadata.tab: no image of ISIC_0000000'):
        ham10000_rows(ham)


def test_too_few_lesions_of_a_class_name_the_class(ham, lines, tmp_path):
    for number, line in enumerate(lines):
        if ',vasc,' in line and 'vasc0' not in line:
            (ham / f'HAM10000_images_part_{1 + number % 2}' / f'ISIC_{number:07}.jpg').unlink()
    write_metadata(ham, [line for line in lines if ',vasc,' not in line or 'vasc0' in line])
    with pytest.raises(ValueError, match=r'class vasc \(6\): expected at least 3 groups'):
        convert_ham10000(ham, tmp_path / 'out', 'cls')


def test_each_fold_balances_its_training_split_only(ham, tmp_path):
    options = dict(ratios=(50, 50, 0), seed=1, folds=3)
    splits = convert_ham10000(ham, tmp_path, 'cls', balance=9, **options)
    for fold in range(3):
        parts = {name: splits[f'fold_{fold}/{name}'] for name in ('train', 'val', 'test')}
        refuse_shared_groups(parts)
        samples = Counter()
        for row in parts['train']:
            samples[row.label] += row.repeats
        assert set(samples.values()) == {9}
        assert {row.repeats for name in ('val', 'test') for row in parts[name]} == {1}
        assert {row.label for row in parts['val']} == {*samples}
    info = json.loads((tmp_path / 'splits.json').read_text())
    assert (info['balanced_to'], info['folds']) == ([9, 9, 9], 3)
