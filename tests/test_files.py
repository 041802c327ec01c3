import json
import math
import os

import numpy as np
import pytest
import torch

from mmkdml.files import (
    atomic_path,
    atomic_writer,
    json_text,
    own_file,
    remove_partial_files,
    reserve,
    write_atomically,
)


def test_file_is_replaced(tmp_path):
    path = tmp_path / 'file'
    write_atomically(path, b'old')
    write_atomically(str(path), b'new')
    assert path.read_bytes() == b'new'
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize('call', ['fsync', 'replace'])
def test_full_disk_keeps_the_previous_file(tmp_path, monkeypatch, call):
    path = tmp_path / 'file'
    write_atomically(path, b'old')

    def full(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match=r'No space left.*\(.* file is unchanged\).*/file') as found:
        write_atomically(path, b'new')
    assert found.value.errno == 28
    assert path.read_bytes() == b'old'
    assert list(tmp_path.iterdir()) == [path]


def test_file_is_synced_before_its_name(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(handle):
        done.append(os.path.realpath(f'/proc/self/fd/{handle}'))
        fsync(handle)

    def replaced(part, path):
        done.append('replace')
        replace(part, path)

    monkeypatch.setattr(os, 'fsync', synced)
    monkeypatch.setattr(os, 'replace', replaced)
    write_atomically(tmp_path / 'file', b'new')
    part, step, folder = done
    assert part.startswith(str(tmp_path / '.file.'))
    assert (step, folder) == ('replace', str(tmp_path))


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / 'file'
    path.write_bytes(b'old')
    with atomic_writer(path) as file:
        file.seek(3)
        file.write(b'def')
        file.seek(0)
        file.write(b'abc')
        assert path.read_bytes() == b'old'
    assert path.read_bytes() == b'abcdef'
    with pytest.raises(TypeError), atomic_writer(path) as file:
        file.write('no bytes')
    assert path.read_bytes() == b'abcdef'
    assert list(tmp_path.iterdir()) == [path]


def test_errors_about_other_files_name_them(tmp_path):
    with pytest.raises(FileNotFoundError) as found, atomic_path(tmp_path / 'file'):
        (tmp_path / 'other').read_bytes()
    assert found.value.filename == str(tmp_path / 'other')
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('name', ['x' * 255, 'ä' * 127])
def test_longest_file_names(tmp_path, name):
    write_atomically(tmp_path / name, b'new')
    assert (tmp_path / name).read_bytes() == b'new'


def test_partial_files_are_removed(tmp_path):
    names = ['.a.pth.1.f0.part', '.b.csv.1.f0.part', 'c.part']
    for name in names:
        (tmp_path / name).touch()
    remove_partial_files(tmp_path, '*.pth')
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])
    remove_partial_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == names[2:]


def strict(text):
    def refuse(word):
        raise ValueError(word)

    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize(
    ('value', 'expected'),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float32('inf'), None),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([1.0, math.nan]), [1.0, None]),
        (torch.tensor(math.nan), None),
        (torch.tensor([[1, 2]]), [[1, 2]]),
        (True, True),
        (None, None),
        ('NaN', 'NaN'),
        ({'a': (1, math.nan), 'b': {'c': [math.inf]}}, {'a': [1, None], 'b': {'c': [None]}}),
    ],
)
def test_json_is_strict(value, expected):
    found = strict(json_text(value))
    assert found == expected
    assert type(found) is type(expected)
    assert strict(json_text([value], indent=1)) == [expected]


def test_unsupported_json_values_raise():
    with pytest.raises(TypeError, match='set is not JSON serializable'):
        json_text({'a': {1}})


def test_temporary_names_differ_for_equal_process_ids(tmp_path, monkeypatch):
    """Containers may run every process as 1."""
    monkeypatch.setattr(os, 'getpid', lambda: 1)
    path = tmp_path / 'file'
    with atomic_writer(path) as first, atomic_writer(path) as second:
        first.write(b'first')
        second.write(b'second')
        assert len(list(tmp_path.glob('.file.1.*.part'))) == 2
    assert path.read_bytes() == b'first'


def test_own_file_never_follows_links(tmp_path):
    root, elsewhere = tmp_path / 'root', tmp_path / 'elsewhere'
    elsewhere.mkdir()
    (tmp_path / 'real').mkdir()
    root.symlink_to(tmp_path / 'real')  # a link of the user's
    assert own_file(root, 'a', 'b', 'file') == root / 'a' / 'b' / 'file'
    assert (root / 'a' / 'b').is_dir()
    for link in ('a/link', 'link'):
        (root / link).symlink_to(elsewhere)
        with pytest.warns(UserWarning, match=f'{root / link} is a link'):
            path = own_file(root, link, 'file')
        path.write_text('mine')
    (root / 'file').symlink_to(elsewhere / 'file')
    os.mkfifo(root / 'fifo')
    for name, kind in (('file', f'a link to {elsewhere}'), ('fifo', 'a special file')):
        with pytest.warns(UserWarning, match=f'{root / name} is {kind}.* and is replaced'):
            own_file(root, name).write_text('mine')
    assert not any(elsewhere.iterdir())
    (tmp_path / 'other').symlink_to(elsewhere)
    assert own_file(root, tmp_path / 'other' / 'file') == tmp_path / 'other' / 'file'
    assert (tmp_path / 'other').is_symlink()


@pytest.mark.parametrize('known', [True, False])
def test_reserved_space_keeps_the_content(tmp_path, monkeypatch, known):
    if not known:  # as on macOS
        monkeypatch.delattr(os, 'posix_fallocate', raising=False)
    path = tmp_path / 'x'
    path.write_bytes(b'abc')
    with path.open('r+b') as file:
        reserve(file, 2)
        reserve(file, 2**16)
        assert path.stat().st_size == 2**16
    assert path.read_bytes() == b'abc'.ljust(2**16, b'\0')
    with path.open('r+b') as file:
        reserve(file, 5)
    assert path.stat().st_size == 2**16
