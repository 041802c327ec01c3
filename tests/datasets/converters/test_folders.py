import json

import numpy as np
import pytest

from mmkdml.datasets.converters import class_folder_rows, convert_folders, mask_pair_rows
from mmkdml.datasets.splits import read_split

PATIENT = r'(p\d)_'


@pytest.fixture
def tiles(tmp_path, save):
    """Three classes with 4, 8 and 12 tiles in several formats, two per patient."""
    source = tmp_path / 'tiles'
    endings = ['.png', '.JPG', '.tif']
    for label, name in enumerate(['mucus', 'Adipose', 'tumour']):
        for place in range(4 * (label + 1)):
            file = f'p{place // 2}_{name}_{place}{endings[place % 3]}'
            save(source / name / file, np.full((4, 4, 3), place))
    save(source / 'mucus' / '.hidden.png', np.zeros((4, 4)))
    save(source / '__MACOSX' / 'mucus' / 'x.png', np.zeros((4, 4)))
    (source / 'splits').mkdir()
    (source / 'splits' / 'train.csv').write_text('other content')
    (source / 'README.txt').write_text('tiles')
    return source


@pytest.fixture
def pairs(tmp_path, save):
    """Eight images of four patients with masks; every other mask is empty."""
    source = tmp_path / 'polyps'
    for place in range(8):
        name = f'p{place // 2}/view_{place}'
        mask = np.zeros((6, 4))
        mask[2, 1] = 255 * (place % 2)
        save(source / 'images' / f'{name}.jpg', np.full((6, 4, 3), place))
        save(source / 'masks' / f'{name}_mask.png', mask)
    return source


def pair_rows(source, group_regex=None):
    return mask_pair_rows(source, 'images', 'masks', '_mask', group_regex)


def test_class_folders(tiles):
    rows, classes = class_folder_rows(tiles)
    assert classes == ('Adipose', 'mucus', 'tumour')
    assert len(rows) == 24
    row = next(row for row in rows if row.path == 'tumour/p0_tumour_1.JPG')
    assert (row.id, row.label, row.mask) == ('tumour/p0_tumour_1', 2, None)
    assert row.group == row.path
    assert len({row.group for row in rows}) == 24


@pytest.mark.parametrize(
    'regex', [PATIENT, r'/(?P<group>p\d)_', r'(tumour|mucus|Adipose)/(?P<group>p\d)']
)
def test_group_regex_names_the_group(tiles, regex):
    rows, _ = class_folder_rows(tiles, regex)
    assert all(row.group == row.path.split('/')[1][:2] for row in rows)


def test_links_to_folders_are_followed(tiles, tmp_path):
    rows, classes = class_folder_rows(tiles)
    (tiles / 'tumour').rename(tmp_path / 'elsewhere')
    (tiles / 'tumour').symlink_to(tmp_path / 'elsewhere')
    assert class_folder_rows(tiles) == (rows, classes)


def test_mask_pairs(pairs):
    rows = pair_rows(pairs, r'/(p\d)/')
    assert [row.label for row in rows] == [0, 1] * 4
    assert rows[3].id == 'p1/view_3'
    assert rows[3].path == 'images/p1/view_3.jpg'
    assert rows[3].mask == 'masks/p1/view_3_mask.png'
    assert rows[3].group == 'p1'


def test_mask_suffix_separates_masks_in_the_image_folder(pairs):
    apart = pair_rows(pairs)
    for mask in sorted((pairs / 'masks').rglob('*.png')):
        mask.rename(pairs / 'images' / mask.relative_to(pairs / 'masks'))
    together = mask_pair_rows(pairs, 'images/', './images', '_mask')
    assert [(r.id, r.path, r.label) for r in together] == [(r.id, r.path, r.label) for r in apart]
    with pytest.raises(ValueError, match='mask_suffix: expected .* got none'):
        mask_pair_rows(pairs, 'images', 'images')


def test_masks_in_a_subfolder_of_images_are_not_images(pairs):
    (pairs / 'masks').rename(pairs / 'images' / 'masks')
    rows = mask_pair_rows(pairs, 'images', 'images/masks', '_mask')
    assert [row.id for row in rows] == [f'p{i // 2}/view_{i}' for i in range(8)]


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda f, save: save(f / 'stray.png', np.zeros((4, 4))),
            '- stray.png: not in a class folder',
        ),
        (
            lambda f, save: save(f / 'mucus' / 'p0_mucus_0.bmp', np.zeros((4, 4))),
            'mucus/p0_mucus_0.png: differs from mucus/p0_mucus_0.bmp only in the suffix',
        ),
        (
            lambda f, save: (f / 'mucus' / 'p0_mucus_0.png').write_bytes(b'no image'),
            '- mucus/p0_mucus_0.png: unreadable image',
        ),
    ],
)
def test_invalid_tiles_raise(tiles, save, damage, message):
    damage(tiles, save)
    with pytest.raises(ValueError, match=message):
        class_folder_rows(tiles)


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda f, save: (f / 'images/p1/view_2.jpg').unlink(),
            'masks/p1/view_2_mask.png: no image p1/view_2 in images',
        ),
        (
            lambda f, save: (f / 'masks/p1/view_2_mask.png').unlink(),
            'images/p1/view_2.jpg: no mask p1/view_2_mask in masks',
        ),
        (
            lambda f, save: save(f / 'masks/p1/view_2_mask.tif', np.zeros((6, 4))),
            'p1/view_2_mask.tif: differs from masks/p1/view_2_mask.png only in the suffix',
        ),
        (
            lambda f, save: save(f / 'masks/p1/view_2_mask.png', np.zeros((4, 6))),
            '- masks/p1/view_2_mask.png: the mask is 6x4, its image 4x6',
        ),
        (
            lambda f, save: save(f / 'masks/p1/view_2_mask.png', np.eye(6, 4) * 9),
            'masks/p1/view_2_mask.png: expected a binary mask.* 0, 9',
        ),
        (
            lambda f, save: (f / 'images/p1/view_2.jpg').write_bytes(b''),
            '- images/p1/view_2.jpg: unreadable image',
        ),
    ],
)
def test_invalid_pairs_raise(pairs, save, damage, message):
    damage(pairs, save)
    with pytest.raises(ValueError, match=message):
        pair_rows(pairs)


@pytest.mark.parametrize(
    ('regex', 'message'),
    [
        (r'(p\d', r"Invalid regular expression '\(p.*: missing"),
        (r'p\d', r'with a group in parentheses, got '),
        (r'(p[1-9])_', 'finds no group in 6 of 24 images, such as Adipose/p0_Adipose_0.png, Adi'),
        (r'mucus/(p\d)|tumour', 'finds no group in 20 of 24 images'),
        (r'(x*)', 'finds no group in 24 of 24 images'),
    ],
)
def test_invalid_group_regex_raises(tiles, regex, message):
    with pytest.raises(ValueError, match=message):
        class_folder_rows(tiles, regex)


def test_missing_or_empty_folders_raise(tmp_path, pairs, save):
    with pytest.raises(FileNotFoundError, match='x is not a folder; expected .* per class'):
        class_folder_rows(tmp_path / 'x')
    (tmp_path / 'empty' / 'a').mkdir(parents=True)
    with pytest.raises(ValueError, match=r'two classes or more in .*empty, got \[\]'):
        class_folder_rows(tmp_path / 'empty')
    with pytest.raises(FileNotFoundError, match='x is not a folder; .* folders of images and of'):
        mask_pair_rows(tmp_path / 'x', 'images', 'masks')
    with pytest.raises(
        FileNotFoundError, match='polyps/x is not a folder; .*of masks, relative to'
    ):
        mask_pair_rows(pairs, 'images', 'x')
    for outside in ('../polyps/images', str(pairs / 'images')):
        with pytest.raises(ValueError, match='expected the folder of images, relative to .* got '):
            mask_pair_rows(pairs, outside, 'masks')
    (pairs / 'none').mkdir()
    with pytest.raises(ValueError, match=r'no images \(.bmp, .* in .*none'):
        mask_pair_rows(pairs, 'none', 'masks')


def test_splits_preserve_class_proportions_if_groups_allow(tiles, tmp_path):
    convert_folders(tiles, tmp_path / 'plain', ratios=(2, 1, 1))
    for part, share in dict(train=0.5, val=0.25, test=0.25).items():
        labels = [row.label for row in read_split(tmp_path / 'plain' / f'{part}.csv')]
        assert [labels.count(label) for label in range(3)] == [8 * share, 4 * share, 12 * share]
    splits = convert_folders(tiles, tmp_path / 'grouped', group_regex=PATIENT, ratios=(2, 1, 1))
    groups = [{row.group for row in part} for part in splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 6
    info = [json.loads((tmp_path / n / 'splits.json').read_text()) for n in ('plain', 'grouped')]
    assert [one['by_class'] for one in info] == [True, False]
    assert info[1]['classes'] == ['Adipose', 'mucus', 'tumour']
    assert info[1]['group_regex'] == PATIENT


@pytest.mark.parametrize(
    'arguments', [dict(images='images'), dict(masks='masks'), dict(mask_suffix='_mask')]
)
def test_incomplete_mask_arguments_raise(pairs, tmp_path, arguments):
    with pytest.raises(ValueError, match='expected both images and masks, or neither'):
        convert_folders(pairs, tmp_path / 'out', **arguments)


def test_tool_on_class_folders(tiles, tmp_path, run_tool, files_in, capsys):
    before = files_in(tiles)
    for out in ('one', 'two'):
        run_tool('folders.py', tiles, '--out', tmp_path / out, '--ratios', 2, 1, 1)
    assert files_in(tiles) == before
    assert files_in(tmp_path / 'one') == files_in(tmp_path / 'two')
    text = capsys.readouterr().out
    assert [line.split() for line in text.splitlines()[:2]] == [
        ['split', 'images', 'groups', 'Adipose', 'mucus', 'tumour'],
        ['train', '12', '12', '4', '2', '6'],
    ]
    assert text.endswith('see "Custom data" in the documentation\n')


def test_tool_on_pairs(pairs, tmp_path, run_tool, capsys):
    places = ('--images', 'images', '--masks', 'masks', '--mask-suffix', '_mask')
    run_tool(
        *('folders.py', pairs, '--out', tmp_path / 'out', *places, '--group-regex', r'/(p\d)/'),
        *('--ratios', 2, 1, 1),
    )
    assert [line.split() for line in capsys.readouterr().out.splitlines()[:2]] == [
        ['split', 'images', 'groups', 'positives'],
        ['train', '4', '2', '2'],
    ]
    with pytest.raises(SystemExit, match='folders.py: error: .* relative to .*polyps'):
        run_tool('folders.py', pairs, '--out', tmp_path / 'x', '--images', 'i', '--masks', 'm')


@pytest.mark.parametrize('name', ['folders.py', 'ham10000.py', 'lgg.py', 'pcam.py'])
def test_tools_print_help(run_tool, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        run_tool(name, '--help')
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f'usage: {name}')


def test_entirely_foreground_masks_are_named(pairs, save):
    save(pairs / 'masks' / 'p1' / 'view_2_mask.png', np.ones((6, 4)))
    with pytest.warns(UserWarning, match='1 of 8 masks are entirely foreground: masks/p1/view_2_m'):
        rows = pair_rows(pairs)
    assert rows[2].label == 1


def test_arrays_without_channels_name_the_option(tmp_path):
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    np.save(tmp_path / 'images' / 'one.npy', np.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match=r'images/one\.npy.*--channels'):
        mask_pair_rows(tmp_path, 'images', 'masks')


def test_folds_of_tiles_preserve_class_proportions(tiles, tmp_path):
    splits = convert_folders(tiles, tmp_path, folds=2, ratios=(50, 50, 0))
    for fold in range(2):
        labels = [row.label for row in splits[f'fold_{fold}/test']]
        assert [labels.count(label) for label in range(3)] == [4, 2, 6]
