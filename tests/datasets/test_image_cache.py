import multiprocessing
import os
import pickle
import signal
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile, Resize
from mmengine.dataset import worker_init_fn
from mmpretrain.datasets import PackInputs
from mmseg.datasets import PackSegInputs
from torch.utils.data import DataLoader

from mmkdml.datasets import (
    AlbumentationsTransform,
    CachedLoading,
    LoadBinaryMask,
    LoadCheckedImage,
    SplitClassificationDataset,
    SplitSegDataset,
    image_cache,
)
from mmkdml.datasets.splits import SplitRow, write_splits
from mmkdml.engine.resume.seeding import SAMPLE, seed_all

FLIPS = dict(type=AlbumentationsTransform, transforms=[dict(type='HorizontalFlip', p=0.5)])
SEG = [
    dict(type=LoadCheckedImage),
    dict(type=LoadBinaryMask),
    dict(type=Resize, scale=(8, 8)),
    FLIPS,
    dict(type=PackSegInputs),
]
CLASSIFY = [dict(type=LoadImageFromFile), dict(type=Resize, scale=(8, 8)), FLIPS]
CLASSIFY += [dict(type=PackInputs)]
NAMES = 'abcde'
IMAGE, MASK, TABLE = 9 * 7 * 3, 9 * 7, 6 * 9 * 8  # bytes


def draw(name, seed):
    """Write an uncompressed image and its mask: equal shapes give equal file sizes."""
    random = np.random.default_rng(seed)
    plain = [cv2.IMWRITE_PNG_COMPRESSION, 0]
    cv2.imwrite(f'images/{name}.png', random.integers(0, 256, (9, 7, 3), np.uint8), plain)
    cv2.imwrite(f'images/{name}_mask.png', 255 * random.integers(0, 2, (9, 7), np.uint8), plain)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Five images with masks, one of them repeated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    for number, name in enumerate(NAMES):
        draw(name, number)
    rows = [
        SplitRow(name, f'{name}.png', name, 1, f'{name}_mask.png', 1 + (name == 'b'))
        for name in NAMES
    ]
    write_splits('splits', dict(train=rows), {})
    return tmp_path


def build(cls=SplitSegDataset, limit=1.0, pipeline=None, cached=True, **kwargs):
    return cls(
        ann_file='splits/train.csv',
        data_root='images',
        pipeline=pipeline or (SEG if cls is SplitSegDataset else CLASSIFY),
        image_cache=dict(dir='cache', limit=limit) if cached else None,
        **kwargs,
    )


def samples(dataset):
    """Return all samples, each with its own random seed."""
    taken = []
    for index in range(len(dataset)):
        seed_all(0, SAMPLE, index)
        taken.append(dataset[index])
    return taken


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        assert torch.equal(one['inputs'], other['inputs'])
        samples = one['data_samples'], other['data_samples']
        assert samples[0].metainfo == samples[1].metainfo
        maps = [sample.gt_sem_seg.data for sample in samples if 'gt_sem_seg' in sample]
        assert not maps or torch.equal(*maps)


@pytest.fixture
def decoded(monkeypatch):
    """List of the files that are decoded."""
    files = []
    keys = {LoadImageFromFile: 'img_path', LoadCheckedImage: 'img_path'}
    for cls, key in {**keys, LoadBinaryMask: 'seg_map_path'}.items():

        def record(self, results, transform=cls.transform, key=key):
            files.append(os.path.basename(results[key]))
            return transform(self, results)

        monkeypatch.setattr(cls, 'transform', record)
    return files


@pytest.mark.parametrize('cls', [SplitSegDataset, SplitClassificationDataset])
def test_cached_samples_are_equal_and_decoded_once(data, decoded, cls):
    plain = samples(build(cls, cached=False))
    decoded.clear()
    dataset = build(cls)
    masks = [f'{name}_mask.png' for name in NAMES] if cls is SplitSegDataset else []
    assert sorted(decoded) == sorted([f'{name}.png' for name in NAMES] + masks)
    decoded.clear()
    for _ in range(2):
        assert_equal(samples(dataset), plain)
    assert_equal(samples(build(cls)), plain)  # another run
    assert not decoded
    assert 'CachedLoading(' in repr(dataset.pipeline)


def test_nothing_is_cached_by_default(data):
    dataset = build(cached=False)
    assert not any(isinstance(load, CachedLoading) for load in dataset.pipeline.transforms)
    assert not (data / 'cache').exists()


def test_sample_can_be_modified(data):
    dataset = build()
    load = dataset.pipeline.transforms[0]
    first = load(dataset.get_data_info(0))['img']
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(load(dataset.get_data_info(0))['img'], kept)


def wait_for_new_file_time():
    """Wait until a changed file has a later time than those just written."""
    probe = Path('probe')
    probe.touch()
    before = probe.stat().st_ctime_ns
    while probe.stat().st_ctime_ns == before:
        probe.touch()


def rewrite(name):
    draw(name, 99)


def replace_with_equal_times(name):
    """Change the content and keep the times, like an unpacked archive."""
    state = os.stat(f'images/{name}.png')
    draw(name, 99)
    os.utime(f'images/{name}.png', ns=(state.st_atime_ns, state.st_mtime_ns))


@pytest.mark.parametrize('change', [rewrite, replace_with_equal_times])
@pytest.mark.parametrize('again', [False, True])
def test_changed_file_is_decoded_again(data, decoded, change, again):
    """The file changes while a data set is in use, or before the next run."""
    dataset = build()
    wait_for_new_file_time()
    change('c')
    plain = samples(build(cached=False))
    dataset = build() if again else dataset
    decoded.clear()
    assert_equal(samples(dataset), plain)
    assert decoded == ([] if again else ['c.png', 'c_mask.png'])


def test_broken_file_raises_at_its_sample(data):
    (data / 'images' / 'c.png').write_bytes(b'no image')
    (data / 'images' / 'd_mask.png').unlink()
    dataset = build()
    for index, name in ((3, 'c.png'), (4, 'd_mask.png')):
        with pytest.raises(RuntimeError, match=f'sample {index} .*{name}.* could not be prepared'):
            dataset[index]
    draw('c', 7)
    draw('d', 8)
    assert_equal(samples(dataset), samples(build(cached=False)))


def test_deleted_file_raises(data):
    dataset = build()
    (data / 'images' / 'e.png').unlink()
    with pytest.raises(RuntimeError, match=r'sample 5 .*FileNotFoundError.*e\.png'):
        dataset[5]


def packs(data):
    return sorted(path.stat().st_size for path in (data / 'cache').glob('*.pack'))


@pytest.fixture
def logged(monkeypatch):
    """List of log messages."""
    messages = []
    monkeypatch.setattr(image_cache, 'print_log', lambda message, *_: messages.append(message))
    return messages


@pytest.mark.parametrize(
    ('limit', 'sizes', 'missing', 'read'),
    [
        (TABLE + 3 * IMAGE, [TABLE + 3 * IMAGE], [2], 'd.png e.png'),
        (
            2 * TABLE + 5 * IMAGE + 2 * MASK,
            [TABLE + 2 * MASK, TABLE + 5 * IMAGE],
            [3],
            'c_mask.png d_mask.png e_mask.png',
        ),
    ],
)
def test_folder_stays_within_the_limit(data, decoded, logged, limit, sizes, missing, read):
    plain = samples(build(cached=False))
    build(limit=limit / 2**30)
    assert packs(data) == sizes
    parts = [message for message in logged if ' of 6 samples are not in cache/' in message]
    assert [int(message[0]) for message in parts] == missing
    assert all('set a higher limit' in message for message in parts)
    decoded.clear()
    assert_equal(samples(build(limit=limit / 2**30)), plain)
    masks = [] if len(sizes) == 2 else [f'{name}_mask.png' for name in 'abbcde']
    assert sorted(decoded) == sorted([*read.split(), *masks])


def test_full_folder_is_not_extended(data, logged):
    dataset = build(limit=1e-8)
    assert not packs(data)
    assert logged == [f'cache has no room for 6 more samples. {image_cache._ADVICE}'] * 2
    assert_equal(samples(dataset), samples(build(cached=False)))


def test_each_loader_setting_has_its_own_pack(data):
    build(SplitClassificationDataset)
    grey = [dict(type=LoadImageFromFile, color_type='grayscale'), *CLASSIFY[1:]]
    dataset = build(SplitClassificationDataset, pipeline=grey)
    assert packs(data) == [TABLE + 5 * MASK, TABLE + 5 * IMAGE]
    plain = build(SplitClassificationDataset, pipeline=grey, cached=False)
    assert_equal(samples(dataset), samples(plain))


def test_other_decoder_version_decodes_again(data, decoded, monkeypatch):
    build()
    decoded.clear()
    monkeypatch.setattr(cv2, '__version__', '99')
    build()
    assert len(decoded) == 10


def test_only_8_bit_images_are_cached(data):
    floats = [dict(type=LoadImageFromFile, to_float32=True), *CLASSIFY[1:]]
    dataset = build(SplitClassificationDataset, pipeline=floats)
    assert packs(data) == [TABLE]
    plain = build(SplitClassificationDataset, pipeline=floats, cached=False)
    assert_equal(samples(dataset), samples(plain))


def test_subclasses_are_not_replaced(data):
    class Own(LoadImageFromFile):
        pass

    dataset = build(SplitClassificationDataset, pipeline=[Own(), *CLASSIFY[1:]])
    assert type(dataset.pipeline.transforms[0]) is Own


def test_subsets_get_their_own_images(data):
    dataset = build(SplitClassificationDataset)
    plain = samples(build(SplitClassificationDataset, cached=False))
    for part in (build(SplitClassificationDataset, indices=[5, 0]), dataset.get_subset([5, 0])):
        for index, sample in zip((5, 0), (part[0], part[1]), strict=True):
            inputs = sample['inputs'], plain[index]['inputs']
            assert torch.equal(*inputs) or torch.equal(inputs[0], inputs[1].flip(-1))


def damage(path, how):
    content = bytearray(path.read_bytes())
    table = np.frombuffer(content, np.int64, 54).reshape(6, 9)
    match how:
        case 'empty':
            content = b''
        case 'short table':
            content = content[:100]
        case 'short pixels':
            content = content[:-1]
        case 'offset':
            table[5, 4] = len(content)
        case 'negative offset':
            table[0, 4] = -9
        case 'negative height':
            table[0, 5] = -9
        case 'overflow':
            table[0, 5:8] = 2**33, 2**31, 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    'how',
    ['empty', 'short table', 'short pixels', 'offset', 'negative offset', 'negative height',
     'overflow'],
)  # fmt: skip
def test_damaged_pack_is_written_again(data, how):
    build()
    intact = {path: path.read_bytes() for path in (data / 'cache').glob('*.pack')}
    for path in intact:
        damage(path, how)
        assert path.read_bytes() != intact[path]
    build()
    assert {path: path.read_bytes() for path in (data / 'cache').glob('*.pack')} == intact


def pack_of(data, size):
    """Return the pack of images or of masks, by the size of its pixels."""
    (path,) = (p for p in (data / 'cache').iterdir() if p.stat().st_size == TABLE + 5 * size)
    return path


@pytest.mark.parametrize(('size', 'name'), [(IMAGE, 'a.png'), (MASK, 'a_mask.png')])
@pytest.mark.parametrize('place', [0, -1])
def test_flipped_bit_raises(data, size, name, place):
    build()
    path = pack_of(data, size)
    content = bytearray(path.read_bytes())
    content[TABLE if place == 0 else TABLE + size - 1] ^= 1
    path.write_bytes(content)
    for dataset in (build(), build()):
        with pytest.raises(RuntimeError, match=rf'{path.name}: expected the pixels of .*/{name}, '):
            dataset[0]
        dataset[3]  # others are intact
    path.unlink()
    assert_equal(samples(build()), samples(build(cached=False)))


@pytest.mark.parametrize(
    'row',
    [
        dict(shape=(7, 9, 3)),  # the same number of pixels
        dict(offset=TABLE + IMAGE),  # pixels of another image
        dict(checksum=1),
    ],
)
def test_damaged_row_raises(data, row):
    build()
    path = pack_of(data, IMAGE)
    content = bytearray(path.read_bytes())
    table = np.frombuffer(content, np.int64, 54).reshape(6, 9)
    table[0, 5:8] = row.get('shape', table[0, 5:8])
    table[0, 4] = row.get('offset', table[0, 4])
    table[0, 8] = row.get('checksum', table[0, 8])
    path.write_bytes(content)
    with pytest.raises(RuntimeError, match=f'{path.name}: expected the pixels of'):
        build()[0]


@pytest.mark.parametrize('left', [TABLE + IMAGE + 5, 100, 0])
def test_pack_truncated_while_in_use_raises(data, left):
    """A memory-mapped file would kill the process with SIGBUS."""
    dataset = build()
    first = dataset[0]['inputs']
    os.truncate(pack_of(data, IMAGE), left)
    for index in range(5, 0, -1):
        with pytest.raises(RuntimeError, match='damaged or truncated data. Delete the file'):
            dataset[index]
    fresh = pickle.loads(pickle.dumps(dataset))  # as in a new worker
    with pytest.raises(RuntimeError, match='damaged or truncated data. Delete the file'):
        fresh[5]
    assert first.shape == build()[0]['inputs'].shape  # written again


def test_other_reader_version_decodes_again(data, decoded, monkeypatch):
    build()
    decoded.clear()
    monkeypatch.setattr(image_cache, 'READER_VERSION', -1)
    build()
    assert len(decoded) == 10


def test_pack_is_pickled_as_a_path(data):
    dataset = build()
    plain = samples(dataset)
    copied = pickle.dumps(dataset)
    assert all(load.pack._file is None for load in pickle.loads(copied).pipeline.transforms[:2])
    assert_equal(samples(pickle.loads(copied)), plain)


def test_workers_share_the_cache(data):
    def batches(dataset):
        loader = DataLoader(
            dataset,
            batch_size=2,
            num_workers=2,
            collate_fn=list,
            worker_init_fn=partial(worker_init_fn, num_workers=2, rank=0, seed=0),
        )
        return [sample for batch in loader for sample in batch]

    assert_equal(batches(build()), batches(build(cached=False)))


def test_only_one_process_decodes(data, all_forked):
    def start(barrier):
        with open('decoded', 'a', buffering=1) as log:
            decode = image_cache._decode
            image_cache._decode = lambda *args: log.write('.') and decode(*args)
            barrier.wait(300)
            dataset = build()
            image_cache._decode = None  # must not be called
            samples(dataset)

    barrier = multiprocessing.get_context('fork').Barrier(3)
    all_forked(*[(start, barrier)] * 3)
    assert (data / 'decoded').read_text() == '.' * 10


def test_killed_process_leaves_a_valid_cache(data, forked):
    begun = multiprocessing.get_context('fork').Event()

    def hang(*_):
        begun.set()
        signal.pause()

    def start():
        image_cache._decode = hang
        build()

    (process,) = forked((start,))
    assert begun.wait(300)
    os.kill(process.pid, signal.SIGKILL)
    process.join(300)
    assert len(list((data / 'cache').glob('.*.part'))) == 1
    assert_equal(samples(build()), samples(build(cached=False)))
    assert {path.suffix for path in (data / 'cache').iterdir()} == {'', '.pack'}


def test_full_disk_raises_and_keeps_the_pack(data, monkeypatch):
    build()
    before = packs(data)
    draw('a', 50)

    def full(_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match=r'No space left on device .*cache/\w+\.pack'):
        build()
    assert packs(data) == before
    assert not list((data / 'cache').glob('.*.part'))


@pytest.mark.parametrize('limit', [0, -1.0, float('nan')])
def test_nonpositive_limit_raises(data, limit):
    with pytest.raises(ValueError, match='limit of the image cache: expected GiB > 0, got'):
        build(limit=limit)
