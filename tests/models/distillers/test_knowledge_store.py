import logging
import os
import pickle
import re
import signal
import sqlite3
import zlib

import pytest
import torch

from mmkdml.models.distillers import knowledge_store
from mmkdml.models.distillers.knowledge_store import GIB, KnowledgeStore

MIB = 1 / 1024  # in GiB


def key(number):
    return number.to_bytes(32, 'big')


def filled(number, size=1000):
    return torch.full((size,), float(number))


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize('shape', [(), (3,), (2, 3, 5)])
def test_added_tensors_are_found_after_reopening(tmp_path, dtype, shape):
    tensors = {key(number): torch.randn(shape).to(dtype) for number in range(3)}
    path = tmp_path / 'made' / 'cache.sqlite'
    store = KnowledgeStore(path, 1)
    store.add(tensors)
    for opened in (store, KnowledgeStore(path, 1)):
        found = opened.find([key(2), key(7), key(0)])
        assert found.keys() == {key(0), key(2)}
        for name, tensor in found.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, tensors[name])
            tensor.add_(1)  # changes no stored tensor
        assert torch.equal(opened.find([key(0)])[key(0)], tensors[key(0)])
    assert os.listdir(path.parent) == ['cache.sqlite']
    assert store.size == path.stat().st_size


def test_entries_are_never_replaced(tmp_path):
    store = KnowledgeStore(tmp_path / 'x', 1)
    store.add({key(0): filled(0)})
    store.add({key(0): filled(9), key(1): filled(1)})
    found = store.find([key(0), key(1)])
    assert [found[key(number)][0] for number in (0, 1)] == [0, 1]


def fill(path, start):
    store = KnowledgeStore(path, 1)
    for number in range(start, start + 30):
        store.add({key(2 * number): filled(number), key(2 * number + 1): filled(-number)})
        assert not store.full


def test_concurrent_processes_share_a_file(tmp_path, all_forked):
    path = tmp_path / 'x'
    all_forked(*((fill, path, start) for start in (0, 10, 20, 30)))
    found = KnowledgeStore(path, 1).find([key(number) for number in range(200)])
    assert {int.from_bytes(name, 'big'): row[0].item() for name, row in found.items()} == {
        place: (-1) ** place * (place // 2) for place in range(120)
    }


def add_forever(path):
    store = KnowledgeStore(path, 1)
    for number in range(10**6):
        store.add({key(2 * number): filled(number, 10**5), key(2 * number + 1): filled(number)})


@pytest.mark.parametrize('size', [1e6, 3e6])
def test_killed_process_leaves_complete_transactions(tmp_path, forked, size):
    path = tmp_path / 'x'
    (process,) = forked((add_forever, path))
    while not (path.exists() and path.stat().st_size > size):
        assert process.is_alive()
    os.kill(process.pid, signal.SIGKILL)
    process.join(300)
    store = KnowledgeStore(path, 1)
    keys = [key(number) for number in range(400)]
    found = {int.from_bytes(name, 'big'): row[0].item() for name, row in store.find(keys).items()}
    assert len(found) > 2
    assert found == {number: number // 2 for number in range(len(found))}
    assert len(found) % 2 == 0
    store.add({key(1000): filled(5)})
    assert len(store.find([*keys, key(1000)])) == len(found) + 1


def test_file_stays_below_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(knowledge_store, 'print_log', lambda text, level, **_: logged.append(text))
    logged = []
    store = KnowledgeStore(tmp_path / 'x', 2 * MIB)
    megabyte = 2**20 // 4
    store.add({key(0): filled(0, megabyte)})
    for _ in range(2):  # warns once
        store.add({key(1): filled(1), key(2): filled(2, megabyte)})  # both or none
    assert store.full
    store.add({key(1): filled(1)})
    assert store.find([key(0), key(1), key(2)]).keys() == {key(0)}
    assert store.size <= 2 * MIB * GIB
    (text,) = logged
    assert re.search(f'{tmp_path / "x"} .* 0.00.* GiB .database or disk is full', text)
    # A higher limit allows more tensors.
    more = KnowledgeStore(tmp_path / 'x', 4 * MIB)
    more.add({key(2): filled(2, megabyte)})
    assert more.find([key(2)]).keys() == {key(2)}
    # A lower limit keeps the stored tensors.
    assert KnowledgeStore(tmp_path / 'x', MIB).find([key(0)]).keys() == {key(0)}


def test_flipped_bit_raises(tmp_path):
    path = tmp_path / 'x'
    KnowledgeStore(path, 1).add({key(0): filled(0.5, 10**5), key(1): filled(1)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    store = KnowledgeStore(path, 1)
    assert torch.equal(store.find([key(1)])[key(1)], filled(1))
    with pytest.raises(ValueError, match='x is not a valid .*: the checksum of a tensor'):
        store.find([key(0), key(1)])


def other_table(path):
    with sqlite3.connect(path) as file:
        file.execute('CREATE TABLE mine (x)')


def with_trigger(path):
    KnowledgeStore(path, 1)
    with sqlite3.connect(path) as file:
        file.execute('CREATE TRIGGER t AFTER INSERT ON knowledge BEGIN DELETE FROM knowledge; END')


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda path: path.write_text('my notes ' * 100), 'file is not a database'),
        (other_table, 'it has other tables'),
        (with_trigger, 'it has other tables'),
        (lambda path: path.mkdir(), 'unable to open database file'),
    ],
    ids=['text', 'another database', 'more than a table', 'a folder'],
)
def test_other_files_raise_and_stay_unchanged(tmp_path, make, reason):
    path = tmp_path / 'x'
    make(path)
    content = path.is_file() and path.read_bytes()
    with pytest.raises(ValueError, match=f'x is not a valid .*: {reason}'):
        KnowledgeStore(path, 1)
    assert (path.is_file() and path.read_bytes()) == content


@pytest.mark.parametrize('what', ['a pickle', 'no tensor', 'a number'])
def test_untrusted_rows_run_no_code(tmp_path, payload, what):
    path, canary = tmp_path / 'x', tmp_path / 'canary'
    KnowledgeStore(path, 1)
    data = {
        'a pickle': pickle.dumps(payload(canary)),
        'no tensor': b'\x02\0\0\0\0\0\0\0{}',
        'a number': 7,
    }[what]
    checksum = zlib.crc32(data) if isinstance(data, bytes) else 0
    with sqlite3.connect(path) as file:
        file.execute('INSERT INTO knowledge VALUES (?, ?, ?)', (key(0), checksum, data))
    with pytest.raises(ValueError, match='x is not a valid'):
        KnowledgeStore(path, 1).find([key(0)])
    assert not canary.exists()


def test_read_only_file_is_still_read(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(
        knowledge_store, 'print_log', lambda text, level, **_: logged.append((text, level))
    )
    store = KnowledgeStore(tmp_path / 'x', 1)
    store.add({key(0): filled(0)})
    store._file.execute('PRAGMA query_only = ON')
    store.add({key(1): filled(1)})
    assert store.find([key(0), key(1)]).keys() == {key(0)}
    ((text, level),) = logged
    assert 'attempt to write a readonly database' in text
    assert level == logging.WARNING
