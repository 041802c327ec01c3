import _codecs
import json
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmkdml.checkpoint_io import (
    plain_numbers,
    read_checkpoint,
    recorded_classes,
    recorded_dataset_meta,
)
from mmkdml.models.checkpoints import load_network

NUMERIC = (
    'bool', 'int8', 'int16', 'int32', 'int64', 'uint8', 'uint16', 'uint32', 'uint64', 'float16',
    'float32', 'float64', 'complex64', 'complex128',
)  # fmt: skip


@pytest.fixture
def save(tmp_path):
    def save(content, **settings):
        torch.save(content, tmp_path / 'x.pth', **settings)
        return tmp_path / 'x.pth'

    return save


@pytest.mark.parametrize('kind', NUMERIC)
def test_numpy_numbers_are_read(save, kind):
    content = dict(
        scalar=np.ones((), kind)[()], array=np.ones((2, 3), kind), zero=np.ones((), kind)
    )
    loaded = read_checkpoint(save(content))
    for key, value in content.items():
        assert loaded[key].dtype == kind
        np.testing.assert_array_equal(loaded[key], value)


def test_numpy_numbers_of_numpy_1_are_read(tmp_path, save):
    path = save(dict(score=np.float32(0.5), scores=np.ones(2, np.int16)))
    old = tmp_path / 'old.pth'
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(old, 'w') as target:
        for name in source.namelist():
            target.writestr(name, source.read(name).replace(b'numpy._core.', b'numpy.core.'))
    loaded = read_checkpoint(old)
    assert loaded['score'] == 0.5
    assert loaded['scores'].tolist() == [1, 1]


class Crafted:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ('value', 'dtype'),
    [
        (np.array(['a', None], object), 'object'),
        (np.array(['a']), '<U1'),
        (np.array([b'a']), r'\|S1'),
        (np.zeros(1, [('a', 'i4')]), ''),
        (np.array(['2026-01-01'], 'datetime64[D]'), 'datetime64'),
        (np.longdouble(1), ''),
        (Crafted(np.dtype, 'O'), 'object'),
    ],
    ids=['object', 'text', 'bytes', 'record', 'date', 'longdouble', 'crafted'],
)
def test_other_numpy_dtypes_raise(save, value, dtype):
    with pytest.raises(
        ValueError, match=rf'x\.pth is not a valid checkpoint: .*(numeric dtype, got {dtype})'
    ):
        read_checkpoint(save(dict(value=value)))


def test_plain_numbers():
    buffer, weights = HistoryBuffer([1.0], [1]), torch.zeros(1)
    found = plain_numbers(
        OrderedDict(
            best=np.float32(0.5),
            flag=np.bool_(True),
            name=np.str_('a'),
            long=np.longdouble(0.25),
            nested=[dict(step=np.int64(3)), (np.uint8(4), None)],
            classes=np.array(['a', 'b']),
            palette=np.zeros((1, 3), np.uint8),
            buffer=buffer,
            weights=weights,
            **{'x': {np.int64(1): 'one'}},
        )
    )
    palette = found.pop('palette')
    assert isinstance(palette, np.ndarray)
    assert type(found) is OrderedDict
    assert found == dict(
        best=0.5, flag=True, name='a', long=0.25, nested=[dict(step=3), (4, None)],
        classes=['a', 'b'], buffer=buffer, weights=weights, x={1: 'one'},
    )  # fmt: skip
    for value in (found['best'], found['flag'], found['long'], found['nested'][0]['step']):
        assert type(value) in (float, bool, int)
    assert type(found['name']) is str
    assert type(next(iter(found['x']))) is int


def repacked(path, compression=zipfile.ZIP_STORED, extra=0):
    """Copy a checkpoint with another compression and ``extra`` zero bytes."""
    copy = path.with_name('copy.pth')
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(copy, 'w', compression) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
        if extra:
            with target.open('x/data/9', 'w') as part:
                for _ in range(extra >> 20):
                    part.write(bytes(1 << 20))
    return copy


@pytest.mark.parametrize('kind', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_parts_raise(save, kind):
    path = save(dict(weight=torch.zeros(1000)))
    assert torch.equal(read_checkpoint(repacked(path))['weight'], torch.zeros(1000))
    with pytest.raises(ValueError, match=r'copy\.pth .* part x/\S+ is compressed to \S+ of'):
        read_checkpoint(repacked(path, kind))


def test_overlapping_parts_raise(save, tmp_path):
    """Parts that share their bytes are small on disk and large in memory."""
    path = save(dict(weight=torch.zeros(5000)))
    with zipfile.ZipFile(path, 'a') as file:
        part = max(file.infolist(), key=lambda one: one.file_size)
        for number in range(3):
            other = zipfile.ZipInfo(f'x/data/{number + 5}')
            for name in ('header_offset', 'file_size', 'compress_size', 'CRC'):
                setattr(other, name, getattr(part, name))
            file.filelist.append(other)
        file._didModify = True
    with pytest.raises(ValueError, match=r'its parts declare \S+ bytes, the file has '):
        read_checkpoint(path)


def safetensors(header, length=None):
    text = json.dumps(header).encode()
    return struct.pack('<Q', len(text) if length is None else length) + text


HUGE = dict(w=dict(dtype='F32', shape=[1 << 30], data_offsets=[0, 1 << 32]))


@pytest.mark.parametrize('content', [safetensors(HUGE), safetensors({}, 1 << 40)])
def test_oversized_safetensors_raise(tmp_path, content):
    path = tmp_path / 'x.safetensors'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'x\.safetensors is not a valid checkpoint'):
        read_checkpoint(path)


PEAK = """
import resource, sys
from mmkdml.checkpoint_io import read_checkpoint
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[1:]:
    try:
        read_checkpoint(path)
    except ValueError as error:
        continue
    raise SystemExit(f'{path} was read')
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_decompression_bombs_use_little_memory(save, tmp_path):
    """Each file is below 1 MB and expands to at least 200 MB."""
    path = save(dict(weight=torch.zeros(10)))
    deflated = repacked(path, zipfile.ZIP_DEFLATED, extra=200 << 20)
    tensors = tmp_path / 'x.safetensors'
    tensors.write_bytes(safetensors(HUGE))
    legacy = tmp_path / 'legacy.pth'
    torch.save(dict(w=torch.zeros(10)), legacy, _use_new_zipfile_serialization=False)
    content = legacy.read_bytes()
    place = content.index(b'K\x0a', content.index(b'cpu'))  # number of values in the storage
    number = b'J' + struct.pack('<i', 500_000_000)
    legacy.write_bytes(content[:place] + number + content[place + 2 :])
    calls = [Crafted(bytearray, 200 << 20), nested('hex', 24)]
    files = [deflated, tensors, legacy]
    for number, call in enumerate(calls):
        files.append(save(dict(call=call)).rename(tmp_path / f'{number}.pth'))
        old = tmp_path / f'old_{number}.pth'
        torch.save(dict(call=call), old, _use_new_zipfile_serialization=False)
        files.append(old)
    assert max(file.stat().st_size for file in files) < 1_000_000
    done = subprocess.run(
        [sys.executable, '-c', PEAK, *files], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100  # MiB


def nested(codec, depth):
    """Encode text repeatedly; hex doubles it each time."""
    return Crafted(_codecs.encode, nested(codec, depth - 1) if depth else 'a' * 16, codec)


def test_bytes_are_read(save):
    content = dict(first=b'a\xff', again=[b'a\xff', b'b'], codec='latin1', scores=np.ones(3))
    loaded = read_checkpoint(save(content))
    assert loaded.pop('scores').tolist() == content.pop('scores').tolist()
    assert loaded == content


@pytest.mark.parametrize('kind', ['missing', 'folder'])
def test_missing_file_raises(tmp_path, kind):
    path = tmp_path / 'x.pth'
    if kind == 'folder':
        path.mkdir()
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*x\.pth'):
        read_checkpoint(path)


def test_nan_weights_of_a_member_raise(save):
    member = torch.nn.Linear(2, 1)
    weights = member.state_dict()
    weights = {f'members.student_1.{key}': value * float('nan') for key, value in weights.items()}
    with pytest.raises(ValueError, match=r'x\.pth.* student_1.*\(weight: 2 NaN'):
        load_network(member, save(dict(state_dict=weights)), 'student_1')


@pytest.mark.parametrize('dataset_meta', [None, 3, 'x', ['a']])
def test_recorded_dataset_meta_that_is_not_a_dict_is_ignored(dataset_meta):
    checkpoint = dict(meta=dict(dataset_meta=dataset_meta))
    assert recorded_dataset_meta(checkpoint) == {}
    assert recorded_classes(checkpoint) is None


def test_recorded_dataset_meta_is_returned():
    known = dict(classes=('a', 'b'))
    checkpoint = dict(meta=dict(dataset_meta=known))
    assert recorded_dataset_meta(checkpoint) == known
    assert recorded_classes(checkpoint) == ('a', 'b')
