import json
import os
import re
import shutil
from dataclasses import replace
from functools import partial
from hashlib import sha256

import pytest

from mmkdml.datasets.splits import (
    SplitRow,
    accept_splits,
    fold_rows,
    read_split,
    write_folds,
    write_splits,
)
from mmkdml.datasets.splits.manifest import manifest_folder, read_manifest
from mmkdml.datasets.splits.splitting import split_rows

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(3)]
PARTS = ('train', 'val', 'test')
OLD, NEW = (split_rows(ROWS, seed=seed) for seed in (1, 2))
WITHOUT_VAL = split_rows(ROWS, (80, 0, 20), seed=2)


def stop_after(steps, function):
    """Call a function in a process that is killed after some changes of files."""
    if not (child := os.fork()):
        left = [steps]

        def counted(change):
            def changed(*args, **kwargs):
                if left[0] == 0:
                    os._exit(9)
                left[0] -= 1
                return change(*args, **kwargs)

            return changed

        try:
            for name in ('replace', 'unlink', 'fsync', 'mkdir'):
                setattr(os, name, counted(getattr(os, name)))
            function()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_all(folder):
    """Read the split files of a folder; None if all of them are refused."""
    found = {}
    for part in PARTS:
        path = folder / f'{part}.csv'
        if path.exists():
            try:
                found[part] = read_split(path)
            except ValueError:
                found[part] = None
    if found and None in found.values():
        assert all(rows is None for rows in found.values())
        return None
    return found


def prepare(folder, before):
    if before != 'nothing':
        write_splits(folder, OLD, dict(seed=1))
    if before == 'no manifest':
        (folder / 'splits.json').unlink()
    elif before == 'no hashes':
        (folder / 'splits.json').write_text('{"seed": 1}')


@pytest.mark.parametrize(
    ('before', 'new'),
    [
        ('nothing', NEW),
        ('no manifest', NEW),
        ('no hashes', NEW),
        ('a unit', NEW),
        ('a unit', WITHOUT_VAL),
    ],
    ids=['nothing', 'no manifest', 'no hashes', 'a unit', 'a unit, fewer parts'],
)
def test_process_killed_between_any_two_steps_leaves_consistent_files(tmp_path, before, new):
    old = {} if before == 'nothing' else OLD
    outcomes = []
    for steps in range(100):
        folder = tmp_path / str(steps)
        prepare(folder, before)
        code = stop_after(steps, lambda f=folder: write_splits(f, new, dict(seed=2), force=True))
        seen = read_all(folder)
        assert seen in (None, old, new)
        outcomes.append('refused' if seen is None else 'new' if seen == new else 'old')
        # The same call completes an interrupted one.
        write_splits(folder, new, dict(seed=2), force=True)
        assert read_all(folder) == new
        assert {p.name for p in folder.iterdir()} == {
            'splits.json',
            *(f'{part}.csv' for part in new),
        }
        if code == 0:
            break
    assert set(outcomes) == {'old', 'refused', 'new'}
    assert outcomes == sorted(outcomes, key=['old', 'refused', 'new'].index)


def test_interrupted_first_conversion_needs_no_force(tmp_path):
    steps = next(
        n
        for n in range(20)
        if stop_after(n, lambda: write_splits(tmp_path, NEW, {}))
        and (tmp_path / 'val.csv').exists()
    )
    assert steps
    assert read_all(tmp_path) is None
    write_splits(tmp_path, NEW, {})
    assert read_all(tmp_path) == NEW


def test_manifest_has_the_hash_of_each_part(tmp_path):
    write_splits(tmp_path, NEW, dict(seed=2))
    manifest = json.loads((tmp_path / 'splits.json').read_text())
    assert manifest['sha256'] == {
        f'{part}.csv': sha256((tmp_path / f'{part}.csv').read_bytes()).hexdigest() for part in PARTS
    }
    assert manifest['seed'] == 2


@pytest.mark.parametrize('read', PARTS)
@pytest.mark.parametrize('damage', ['other', 'missing', 'mixed'])
def test_parts_of_different_splits_raise(tmp_path, read, damage):
    write_splits(tmp_path / 'a', NEW, {})
    write_splits(tmp_path / 'b', OLD, {})
    if damage == 'other':
        with (tmp_path / 'a' / 'test.csv').open('a') as file:
            file.write('z,z.tif,z,0\n')
    elif damage == 'mixed':
        shutil.copy(tmp_path / 'b' / 'test.csv', tmp_path / 'a' / 'test.csv')
    else:
        (tmp_path / 'a' / 'test.csv').unlink()
        if read == 'test':
            with pytest.raises(FileNotFoundError, match=r'test\.csv'):
                read_split(tmp_path / 'a' / 'test.csv')
            return
    message = (
        rf'{re.escape(str(tmp_path / "a" / "test.csv"))} does not.*accept_splits\.py .*--force'
    )
    with pytest.raises(ValueError, match=message):
        read_split(tmp_path / 'a' / f'{read}.csv')


def test_part_missing_in_manifest_raises(tmp_path):
    write_splits(tmp_path, WITHOUT_VAL, {})
    (tmp_path / 'val.csv').write_text('id,path,group,label\nz,z.tif,z,0\n')
    with pytest.raises(ValueError, match=r'val\.csv does not belong'):
        read_split(tmp_path / 'val.csv')
    shutil.copy(tmp_path / 'val.csv', tmp_path / 'few.csv')  # not a split of the manifest
    assert len(read_split(tmp_path / 'few.csv')) == 1


@pytest.mark.parametrize('manifest', [None, '{"seed": 1}', '[1]', '{"sha256": null}'])
def test_split_files_without_hashes_are_read(tmp_path, manifest):
    write_splits(tmp_path, NEW, {})
    (tmp_path / 'splits.json').unlink()
    if manifest is not None:
        (tmp_path / 'splits.json').write_text(manifest)
    assert read_all(tmp_path) == NEW


def test_damaged_manifest_raises_and_can_be_accepted(tmp_path):
    write_splits(tmp_path, NEW, {})
    (tmp_path / 'splits.json').write_text('{"seed":')
    with pytest.raises(ValueError, match=r'splits\.json is damaged.*accept_splits'):
        read_split(tmp_path / 'train.csv')
    assert accept_splits(tmp_path) == NEW
    assert read_all(tmp_path) == NEW


@pytest.mark.parametrize('manifest', ['{"seed": 3}', '[1]', '{'])
def test_other_manifest_is_replaced_only_with_force(tmp_path, manifest):
    (tmp_path / 'splits.json').write_text(manifest)
    with pytest.raises(FileExistsError, match=r'splits\.json would change'):
        write_splits(tmp_path, NEW, dict(seed=2))
    assert (tmp_path / 'splits.json').read_text() == manifest


def test_hashes_are_added_to_equal_split_files(tmp_path):
    write_splits(tmp_path, OLD, dict(seed=1))
    manifest = json.loads((tmp_path / 'splits.json').read_text())
    hashes = manifest.pop('sha256')
    (tmp_path / 'splits.json').write_text(json.dumps(manifest))
    write_splits(tmp_path, OLD, dict(seed=1))
    assert json.loads((tmp_path / 'splits.json').read_text())['sha256'] == hashes


def test_writing_equal_splits_changes_no_file(tmp_path):
    files = write_splits(tmp_path, NEW, dict(seed=2))
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    assert write_splits(tmp_path, NEW, dict(seed=2), force=True) == files
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before


def test_full_disk_keeps_the_old_files(tmp_path, monkeypatch):
    write_splits(tmp_path, OLD, dict(seed=1))

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='No space left'):
        write_splits(tmp_path, NEW, dict(seed=2), force=True)
    assert read_all(tmp_path) == OLD
    assert len(list(tmp_path.iterdir())) == 4


def test_edited_files_are_accepted(tmp_path):
    write_splits(tmp_path, NEW, dict(seed=2, classes=['no', 'yes']))
    with (tmp_path / 'train.csv').open('a') as file:
        file.write('z,z.tif,z,1\n')
    expected = {**NEW, 'train': [*NEW['train'], SplitRow('z', 'z.tif', 'z', 1)]}
    assert accept_splits(tmp_path) == expected
    assert read_all(tmp_path) == expected
    manifest = json.loads((tmp_path / 'splits.json').read_text())
    assert (manifest['edited'], manifest['classes']) == (True, ['no', 'yes'])
    assert manifest['counts']['train']['images'] == len(expected['train'])
    with pytest.raises(FileExistsError, match=r'train\.csv, splits\.json would change'):
        write_splits(tmp_path, NEW, dict(seed=2, classes=['no', 'yes']))


def test_invalid_edits_are_not_accepted(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'train\.csv'):
        accept_splits(tmp_path)
    write_splits(tmp_path, NEW, {})
    group, text = NEW['train'][0].group, (tmp_path / 'test.csv').read_text()
    for row, message in (
        (f'z,z.tif,{group},1\n', f'group {group!r} is in train and in test'),
        (f'{NEW["train"][0].id},z.tif,z,1\n', f'duplicate id {NEW["train"][0].id!r}'),
        ('z,../z.tif,z,1\n', r'test\.csv, line'),
    ):
        (tmp_path / 'test.csv').write_text(text + row)
        with pytest.raises(ValueError, match=message):
            accept_splits(tmp_path)
        assert read_all(tmp_path) is None
    (tmp_path / 'test.csv').write_text(text + f'z,z.tif,{group},1\n')
    accept_splits(tmp_path, split_by='image')
    assert json.loads((tmp_path / 'splits.json').read_text())['split_by'] == 'image'
    assert len(read_all(tmp_path)['test']) == len(NEW['test']) + 1


def test_repeats_are_accepted_for_training_only(tmp_path):
    write_splits(tmp_path, {**NEW, 'train': [replace(NEW['train'][0], repeats=2)]}, {})
    (tmp_path / 'train.csv').rename(tmp_path / 'val.csv')
    with pytest.raises(ValueError, match='val: .* got 2 for '):
        accept_splits(tmp_path)


def test_interrupted_conversion_is_not_accepted(tmp_path):
    write_splits(tmp_path, NEW, {})
    (tmp_path / 'splits.json').write_text('{"unfinished": true}')
    with pytest.raises(ValueError, match='are incomplete.*--force'):
        accept_splits(tmp_path)


FOLDS = fold_rows(ROWS, 3, (75, 25, 0))
FOLD_FILES = [f'fold_{k}/{part}.csv' for k in range(3) for part in PARTS]


def read_folds(folder):
    """Read all split files of folds; None if all of them are refused."""
    found = []
    for name in FOLD_FILES:
        try:
            found.append(read_split(folder / name))
        except (ValueError, FileNotFoundError):
            found.append(None)
    return None if all(rows is None for rows in found) else found


@pytest.mark.parametrize('to_folds', [True, False], ids=['to folds', 'from folds'])
def test_killed_change_between_folds_and_one_division_leaves_consistent_files(tmp_path, to_folds):
    outcomes = []
    folds = [one[part] for one in FOLDS for part in PARTS]
    for steps in range(100):
        folder = tmp_path / str(steps)
        if to_folds:
            write_splits(folder, OLD, {})
            killed = stop_after(steps, partial(write_folds, folder, FOLDS, {}, force=True))
        else:
            write_folds(folder, FOLDS, {})
            killed = stop_after(steps, partial(write_splits, folder, OLD, {}, force=True))
        one, several = read_all(folder), read_folds(folder)
        assert several in (None, folds)
        assert not one or (one == OLD and not several)
        outcomes.append((bool(one), bool(several)))
        if not killed:
            break
    assert outcomes[0] == outcomes[-1][::-1] == (to_folds, not to_folds)
    assert (False, False) in outcomes
    # Nothing of the other division is left.
    kept = {path.relative_to(folder).as_posix() for path in folder.rglob('*.csv')}
    assert kept == ({*FOLD_FILES} if to_folds else {f'{part}.csv' for part in PARTS})
    assert to_folds or not list(folder.glob('fold_*'))


def test_folds_share_the_manifest_above(tmp_path, monkeypatch):
    write_folds(tmp_path, FOLDS, dict(masks_drawn_on='shown'))
    manifest = json.loads((tmp_path / 'splits.json').read_text())
    assert (manifest['folds'], sorted(manifest['sha256'])) == (3, sorted(FOLD_FILES))
    assert read_manifest(tmp_path / 'fold_1') == manifest
    assert read_split(tmp_path / 'fold_2' / 'test.csv') == FOLDS[2]['test']
    monkeypatch.chdir(tmp_path / 'fold_2')
    assert read_split('test.csv') == FOLDS[2]['test']
    assert manifest_folder('.').resolve() == tmp_path


def test_changed_file_of_a_fold_raises_in_this_fold(tmp_path):
    write_folds(tmp_path, FOLDS, {})
    path = tmp_path / 'fold_1' / 'val.csv'
    path.write_text(path.read_text().replace('.tif', '.png'))
    for part in PARTS:
        with pytest.raises(ValueError, match=r'fold_1/val\.csv'):
            read_split(tmp_path / 'fold_1' / f'{part}.csv')
    assert read_split(tmp_path / 'fold_0' / 'train.csv') == FOLDS[0]['train']
    (tmp_path / 'fold_0' / 'test.csv').unlink()
    with pytest.raises(ValueError, match=r'fold_0/test\.csv'):
        read_split(tmp_path / 'fold_0' / 'train.csv')


def test_single_division_of_folds_names_a_fold(tmp_path):
    write_folds(tmp_path, FOLDS, {})
    (tmp_path / 'train.csv').write_bytes((tmp_path / 'fold_0' / 'train.csv').read_bytes())
    with pytest.raises(ValueError, match=r'3 folds.*fold_0.*--fold'):
        read_split(tmp_path / 'train.csv')
