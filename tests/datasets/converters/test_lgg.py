import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkdml.datasets.converters import convert_lgg, lgg_rows
from mmkdml.datasets.lgg import LGGDataset
from mmkdml.datasets.splits import read_split

TOOLS = Path(__file__).parents[3] / 'tools' / 'dataset_converters'


@pytest.fixture
def lgg(tmp_path, save):
    """Four patients with three slices each, of which the second has a tumour."""
    source = tmp_path / 'kaggle_3m'
    for patient in 'ABCD':
        for index in range(1, 4):
            name = f'TCGA_XX_{patient}_{index}'
            mask = np.zeros((8, 6))
            mask[2, 3] = 255 * (index == 2)
            save(source / f'TCGA_XX_{patient}' / f'{name}.tif', np.full((8, 6, 3), 9))
            save(source / f'TCGA_XX_{patient}' / f'{name}_mask.tif', mask)
    (source / 'data.csv').write_text('Patient,...\n')
    (source / 'README.md').write_text('# LGG\n')
    return source


def test_lgg_rows(lgg):
    rows = lgg_rows(lgg)
    assert len(rows) == 12
    by_id = {row.id: row for row in rows}
    row = by_id['TCGA_XX_B_2']
    assert (row.path, row.mask) == ('TCGA_XX_B/TCGA_XX_B_2.tif', 'TCGA_XX_B/TCGA_XX_B_2_mask.tif')
    assert (row.group, row.label) == ('TCGA_XX_B', 1)
    assert [by_id[f'TCGA_XX_A_{i}'].label for i in (1, 2, 3)] == [0, 1, 0]


def test_masks_of_0_and_1_are_accepted(lgg, save):
    mask = np.zeros((8, 6))
    mask[0, 0] = 1
    save(lgg / 'TCGA_XX_A' / 'TCGA_XX_A_1_mask.tif', mask)
    assert [row.label for row in lgg_rows(lgg)[:3]] == [1, 1, 0]


def copy_slice(folder, _):
    for name in (IMAGE, MASK):
        (folder.parent / 'TCGA_XX_C' / name).write_bytes((folder / name).read_bytes())


IMAGE, MASK = 'TCGA_XX_B_1.tif', 'TCGA_XX_B_1_mask.tif'
MIXED = np.outer([1] * 7 + [255], [0, 0, 0, 1, 1, 1])
BINARY = 'expected a binary mask.* values'


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (
            lambda f, save: save(f / MASK, np.zeros((6, 8))),
            f'TCGA_XX_B/{MASK}: the mask is 8x6, its image 6x8',
        ),
        (
            lambda f, save: save(f / MASK, np.arange(48).reshape(8, 6) // 12 * 50),
            f'{MASK}: {BINARY} 0, 50, 100, 150',
        ),
        (lambda f, save: save(f / MASK, MIXED), f'{MASK}: {BINARY} 0, 1, 255'),
        (
            lambda f, save: save(f / MASK, np.zeros((8, 6, 3))),
            f'{MASK}: expected an image of mode L or .*, got RGB',
        ),
        (
            lambda f, save: save(f / IMAGE, np.zeros((8, 6))),
            f'{IMAGE}: expected an image of mode RGB, got L',
        ),
        (
            lambda f, _: (f / IMAGE).write_bytes((f / IMAGE).read_bytes()[:-60]),
            f'TCGA_XX_B/{IMAGE}: unreadable image',
        ),
        (lambda f, _: (f / MASK).write_bytes(b''), f'TCGA_XX_B/{MASK}: unreadable image'),
        (lambda f, _: (f / MASK).unlink(), f'TCGA_XX_B/{IMAGE}: no mask {MASK} next to it'),
        (lambda f, _: (f / IMAGE).unlink(), f'TCGA_XX_B/{MASK}: mask without image'),
        (copy_slice, f'TCGA_XX_C/{IMAGE}: duplicate id, also in TCGA_XX_B'),
        (
            lambda f, _: (f / IMAGE).rename(f.parent / 'stray.tif'),
            'stray.tif: expected <patient>/<slice>.tif',
        ),
    ],
)
def test_invalid_files_raise(lgg, tmp_path, save, damage, message):
    damage(lgg / 'TCGA_XX_B', save)
    with pytest.raises(ValueError, match=message):
        convert_lgg(lgg, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_problems_are_reported_together_up_to_ten(lgg):
    for mask in sorted(lgg.rglob('*_mask.tif'))[:2]:
        mask.unlink()
    with pytest.raises(ValueError, match='Invalid source folder .*kaggle_3m:') as error:
        lgg_rows(lgg)
    assert str(error.value).count('\n  - ') == 2
    for mask in lgg.rglob('*_mask.tif'):
        mask.unlink()
    with pytest.raises(ValueError, match='stopped after 10') as error:
        lgg_rows(lgg)
    assert str(error.value).count('\n  - ') == 10


def test_missing_source_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match='x is not a folder; expected the folder'):
        lgg_rows(tmp_path / 'x')
    with pytest.raises(ValueError, match='no <patient>/<slice>.tif in '):
        lgg_rows(tmp_path)


def test_lgg_tool_writes_equal_files_and_keeps_the_source(
    lgg, tmp_path, run_tool, files_in, capsys
):
    before = files_in(lgg)
    for out in ('one', 'two'):
        run_tool(
            'lgg.py', lgg, '--out', tmp_path / out, '--seed', '3', '--ratios', '50', '25', '25'
        )
    assert files_in(lgg) == before
    assert files_in(tmp_path / 'one') == files_in(tmp_path / 'two')
    parts = [read_split(tmp_path / 'one' / f'{name}.csv') for name in ('train', 'val', 'test')]
    assert [len({row.group for row in part}) for part in parts] == [2, 1, 1]
    info = json.loads((tmp_path / 'one' / 'splits.json').read_text())
    assert info['counts']['train'] == dict(images=6, groups=2, positives=2)
    assert (info['seed'], info['split_by'], info['ratios']) == (3, 'patient', [50, 25, 25])
    table = capsys.readouterr().out
    assert [line.split() for line in table.splitlines() if line.startswith('train ')] == [
        ['train', '6', '2', '2']
    ] * 2
    assert 'python tools/train.py configs/kdml/r50_r18x2_v3_lgg.py --cfg-options' in table
    assert f'val_dataloader.dataset.ann_file={tmp_path}/two/val.csv' in table


def test_lgg_tool_by_image(lgg, tmp_path, run_tool):
    run_tool('lgg.py', lgg, '--out', tmp_path / 'out', '--split-by', 'image')
    assert len(read_split(tmp_path / 'out' / 'train.csv')) == 9
    with pytest.raises(ValueError, match="one of patient, image, got 'case'"):
        convert_lgg(lgg, tmp_path / 'out', split_by='case')


def test_next_command_is_short_for_default_folders(lgg, tmp_path, monkeypatch, run_tool, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'lgg').mkdir(parents=True)
    lgg.rename(tmp_path / 'data' / 'lgg' / 'kaggle_3m')
    run_tool('lgg.py', 'data/lgg/kaggle_3m', '--out', 'data/lgg/splits/')
    assert capsys.readouterr().out.endswith(
        'next:\nmmkdml train mmkdml::kdml/r50_r18x2_v3_lgg.py\n'
    )


def test_other_splits_require_force(lgg, tmp_path, run_tool, files_in):
    args = lgg, '--out', tmp_path / 'out', '--ratios', 1, 1, 1, '--seed'
    run_tool('lgg.py', *args, 0)
    first = files_in(tmp_path / 'out')
    with pytest.raises(SystemExit, match='lgg.py: error: .*contains other splits'):
        run_tool('lgg.py', *args, 1)
    assert files_in(tmp_path / 'out') == first
    run_tool('lgg.py', *args, 1, '--force')
    assert json.loads((tmp_path / 'out' / 'splits.json').read_text())['seed'] == 1


def test_error_is_printed_without_traceback(forked_python, tmp_path):
    process = forked_python(
        [sys.executable, str(TOOLS / 'lgg.py'), str(tmp_path / 'x'), '--out', str(tmp_path)],
        stderr=subprocess.PIPE,
        text=True,
    )
    errors = process.communicate()[1]
    assert process.returncode == 1
    assert f'lgg.py: error: {tmp_path}/x is not a folder' in errors
    assert 'Traceback' not in errors


def test_capital_suffixes_links_and_system_files(lgg, tmp_path):
    rows = lgg_rows(lgg)
    for path in sorted((lgg / 'TCGA_XX_A').iterdir()):
        path.rename(path.with_suffix('.TIF'))
    (lgg / 'TCGA_XX_B' / MASK).rename(lgg / 'TCGA_XX_B' / MASK.replace('.tif', '.TIFF'))
    (lgg / 'TCGA_XX_C').rename(tmp_path / 'C')
    (lgg / 'TCGA_XX_C').symlink_to(tmp_path / 'C')
    (lgg / 'TCGA_XX_D' / '._TCGA_XX_D_1.tif').write_bytes(b'resource fork')
    found = lgg_rows(lgg)
    assert [(r.id, r.group, r.label) for r in found] == [(r.id, r.group, r.label) for r in rows]
    assert found[0].mask == 'TCGA_XX_A/TCGA_XX_A_1_mask.TIF'


def test_second_mask_of_an_image_raises(lgg):
    folder = lgg / 'TCGA_XX_B'
    (folder / MASK.replace('.tif', '.TIF')).write_bytes((folder / MASK).read_bytes())
    with pytest.raises(ValueError, match=f'TCGA_XX_B/{MASK}: second mask'):
        lgg_rows(lgg)


def test_entirely_foreground_masks_are_named(lgg, save):
    for patient in 'AB':
        save(lgg / f'TCGA_XX_{patient}' / f'TCGA_XX_{patient}_1_mask.tif', np.full((8, 6), 255))
    with pytest.warns(UserWarning, match=r'2 of 12 masks are entirely .*A_1_mask.tif, .*B_1_mask'):
        rows = lgg_rows(lgg)
    assert [row.id for row in rows if row.label][:2] == ['TCGA_XX_A_1', 'TCGA_XX_A_2']


def test_tool_warns_of_leaks_and_links(lgg, tmp_path, run_tool, capsys):
    (lgg / 'TCGA_XX_C').rename(tmp_path / 'C')
    (lgg / 'TCGA_XX_C').symlink_to(tmp_path / 'C')
    out = tmp_path / 'out'
    run_tool('lgg.py', lgg, '--out', out, '--split-by', 'image', '--ratios', 2, 1, 1)
    captured = capsys.readouterr()
    leak, links = [x for x in captured.err.splitlines() if 'warning: ' in x]
    assert 'patients in val' in leak
    assert f'6 files are outside of {lgg}' in links
    assert captured.out.count('.dataset.allow_outside=True') == 3
    run_tool('accept_splits.py', out, '--split-by', 'image')
    assert 'accept_splits.py: warning: Split by image: ' in capsys.readouterr().err
    with pytest.raises(ValueError, match='allow_outside'):
        LGGDataset(ann_file=str(out / 'train.csv'), data_root=str(lgg))
    LGGDataset(ann_file=str(out / 'train.csv'), data_root=str(lgg), allow_outside=True)
