import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS
from PIL import Image

from mmkdml.datasets import SplitClassificationDataset, SplitRow
from mmkdml.datasets.splits import write_folds, write_splits
from mmkdml.engine import SplitOverlapHook

PARTS = ('train', 'val', 'test')


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    for name in 'abcdefghi':
        Image.fromarray(np.full((4, 4, 3), ord(name), np.uint8)).save(folder / f'{name}.png')
    return folder


def rows(names, **changes):
    return [SplitRow(n, f'{n}.png', f'patient {n}', 0, **changes) for n in names]


def settings(images, part, **changes):
    return dict(
        type=SplitClassificationDataset,
        data_root=str(images),
        ann_file=str(images.parent / 'splits' / f'{part}.csv'),
        pipeline=[],
        serialize_data=False,  # Serializing takes a second of garbage collection.
        **changes,
    )


@pytest.fixture
def run(images, caplog):
    """Check these parts before training or testing; return the log."""

    def check(train='abc', val='de', test='fgh', tested=False, wanted=PARTS, info=None, **config):
        parts = dict(train=train, val=val, test=test)
        parts = {p: rows(v) if isinstance(v, str) else v for p, v in parts.items()}
        if written := {p: v for p, v in parts.items() if isinstance(v, list)}:
            write_splits(images.parent / 'splits', written, info or {}, force=True)
        datasets = {
            p: v if isinstance(v, dict) else settings(images, p)
            for p, v in parts.items()
            if p in wanted
        }
        config = Config(
            {**config, **{f'{p}_dataloader': dict(dataset=d) for p, d in datasets.items()}}
        )
        needed = ['test'] if tested else ['train', 'val']
        loaders = {
            f'{p}_dataloader': SimpleNamespace(
                dataset=DATASETS.build(config[f'{p}_dataloader'].dataset)
            )
            for p in needed
            if p in wanted
        }
        runner = SimpleNamespace(
            cfg=config, logger=logging.getLogger('run'), val_loop='val' in wanted or None, **loaders
        )
        caplog.clear()
        hook = SplitOverlapHook()
        hook.before_test(runner) if tested else hook.before_train(runner)
        return caplog.text

    return check


@pytest.fixture(autouse=True)
def ids_differ(monkeypatch):
    """Allow parts with shared ids to be written."""
    monkeypatch.setattr('mmkdml.datasets.splits.split_files.refuse_duplicates', lambda rows: None)


@pytest.mark.parametrize('tested', [False, True])
def test_disjoint_parts_pass(run, tested):
    assert run(tested=tested) == ''


@pytest.mark.parametrize('tested', [False, True])
@pytest.mark.parametrize(
    ('parts', 'shared'),
    [
        (dict(val='cd'), "train and val parts share ids: 'c'"),
        (dict(test='fgb'), "train and test parts share ids: 'b'"),
        (dict(test='edf'), "val and test parts share ids: 'd', 'e'"),
        (dict(test='abcd'), "train and test parts share ids: 'a', 'b', 'c'"),
        (dict(train='abcdi', test='abcdg', val='e'), "share ids: 'a', 'b', 'c' and 1 more"),
    ],
)
def test_shared_ids_raise(run, parts, shared, tested):
    with pytest.raises(ValueError, match=f"{shared}.*split_overlap='warn'"):
        run(**parts, tested=tested)


@pytest.mark.parametrize('way', ['same', 'dots', 'symbolic link', 'hard link'])
def test_shared_file_under_different_ids_raises(run, images, way):
    path = 'a.png'
    if way == 'dots':
        path = './a.png'
    elif way == 'symbolic link':
        (images / (path := 'z.png')).symlink_to(images / 'a.png')
    elif way == 'hard link':
        os.link(images / 'a.png', images / (path := 'z.png'))
    with pytest.raises(ValueError, match=f"train and test parts share image files: '.*{path}'"):
        run(test=[SplitRow('z', path, 'patient z', 0)])


def test_shared_groups_raise_unless_split_by_image(run):
    shared = [SplitRow('i', 'i.png', 'patient a', 0)]
    with pytest.raises(ValueError, match="train and test parts share groups: 'patient a'"):
        run(test=shared)
    assert 'train and test parts share groups' in run(test=shared, split_overlap='warn')
    assert 'share groups' in run(test=shared, info=dict(split_by='image'))
    with pytest.raises(ValueError, match='share groups'):
        run(test=shared, info=dict(split_by='patient'))
    with pytest.raises(ValueError, match='share ids'):  # Only groups may be shared.
        run(test='ai', info=dict(split_by='image'))


def test_policy_warn_logs_all_overlaps(run):
    text = run(val='ad', test='ab', split_overlap='warn')
    for parts in ('train and val', 'train and test', 'val and test'):
        for kind in ('ids', 'image files', 'groups'):
            assert f'The {parts} parts share' in text
            assert kind in text


def test_unknown_policy_raises(run):
    with pytest.raises(ValueError, match="split_overlap: expected one of error, warn, got 'no'"):
        run(split_overlap='no')


def test_only_selected_indices_are_compared(run, images):
    first = settings(images, 'train', indices=2)
    last = dict(settings(images, 'train', indices=[2]), test_mode=True)
    write_splits(images.parent / 'splits', dict(train=rows('abc')), {})
    everything = dict(settings(images, 'train'))
    (images.parent / 'keep').mkdir()
    for part in ('train.csv', 'splits.json'):
        (images.parent / 'splits' / part).rename(images.parent / 'keep' / part)
    for one in (first, last, everything):
        one['ann_file'] = str(images.parent / 'keep' / 'train.csv')
    assert run(train=first, val=last, test='fg') == ''
    with pytest.raises(ValueError, match="train and val parts share ids: 'c'"):
        run(train=everything, val=last, test='fg')


def test_repeats_within_a_part_pass(run):
    assert run(train=rows('abc', repeats=3)) == ''


def test_wrapped_data_sets_are_compared(run, images):
    def wrapped(part):
        inner = dict(type='RepeatDataset', times=2, dataset=settings(images, part))
        return dict(type='ConcatDataset', datasets=[inner])

    write_splits(images.parent / 'splits', dict(train=rows('abc')), {})
    for part in ('train.csv', 'splits.json'):
        target = images.parent / 'more' / part
        target.parent.mkdir(exist_ok=True)
        (images.parent / 'splits' / part).rename(target)
    train = wrapped('train')
    train['datasets'][0]['dataset']['ann_file'] = str(images.parent / 'more' / 'train.csv')
    assert run(train=train) == ''
    with pytest.raises(ValueError, match="train and test parts share ids: 'a'"):
        run(train=train, test='af')


def test_test_part_equal_to_validation_part_warns(run, images):
    same = settings(images, 'val')
    assert 'val and test parts share ids' in run(val='de', test=same)
    flips = [dict(type='mmcv.RandomFlip', prob=0.5)]  # as test-time augmentation adds them
    assert 'val and test parts share ids' in run(val='de', test=dict(same, pipeline=flips))


def test_unreadable_unused_part_warns(run, images):
    missing = dict(settings(images, 'test'), ann_file='nowhere.csv')
    text = run(test=missing)
    assert 'The test part is not compared' in text
    assert 'nowhere.csv' in text
    assert run(wanted=('train',)) == ''


def test_images_are_not_decoded(run, images):
    test = settings(images, 'test', image_cache=dict(dir=str(images.parent / 'cache')))
    test['pipeline'] = [dict(type='LoadImageFromFile')]
    write_splits(images.parent / 'splits', dict(test=rows('fg')), {})
    run(test=test)
    assert not (images.parent / 'cache').exists()


def folders(root, names):
    """Class folders as mmpretrain's CustomDataset reads them."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(root / name)
    return dict(type='mmpretrain.CustomDataset', data_root=str(root), pipeline=[])


def test_mmpretrain_data_sets_are_compared_by_file(run, tmp_path):
    train = folders(tmp_path / 'train', ['cat/1.png', 'dog/2.png'])
    val = folders(tmp_path / 'val', ['cat/1.png', 'dog/2.png'])  # Same names, different files.
    test = folders(tmp_path / 'test', ['cat/9.png', 'dog/2.png'])
    assert run(train=train, val=val, test=test) == ''
    (tmp_path / 'test' / 'cat' / '8.png').symlink_to(tmp_path / 'train' / 'cat' / '1.png')
    with pytest.raises(ValueError, match='train and test parts share image files: .*8.png'):
        run(train=train, val=val, test=test)


def test_mmseg_data_sets_are_compared_by_file(run, tmp_path):
    def part(name, files):
        folders(tmp_path / name, files)
        return dict(
            type='mmseg.BaseSegDataset',
            data_root=str(tmp_path / name),
            data_prefix=dict(img_path='.'),
            img_suffix='.png',
            metainfo=dict(classes=('a', 'b')),
            pipeline=[],
        )

    train, val = part('train', ['1.png', '2.png']), part('val', ['1.png'])
    assert run(train=train, val=val, wanted=('train', 'val')) == ''
    with pytest.raises(ValueError, match='train and val parts share image files'):
        run(train=train, val=train, wanted=('train', 'val'))


def test_ids_of_other_data_sets_are_ignored(run):
    @DATASETS.register_module(name='Numbered', force=True)
    class Numbered:
        def __len__(self):
            return 3

        def get_data_info(self, index):
            return dict(id=index, group=[index])

    assert run(train=dict(type='Numbered'), val=dict(type='Numbered')) == ''


def test_data_sets_without_sample_info_pass(run):
    @DATASETS.register_module(name='Numbers', force=True)
    class Numbers:
        def __len__(self):
            return 3

    assert run(train=dict(type='Numbers'), val=dict(type='Numbers')) == ''


def test_parts_of_a_fold_do_not_overlap_but_those_of_two_folds_do(images, run):
    folds = [
        {part: rows(names) for part, names in zip(PARTS, one.split(), strict=True)}
        for one in ('abc de fgh', 'fg deh abc', 'fga bch de')
    ]
    write_folds(images.parent / 'splits', folds, dict(split_by='image'))

    def of(fold, part):
        return settings(images, f'fold_{fold}/{part}')

    run(*(of(1, part) for part in PARTS))
    with pytest.raises(ValueError, match="train and test parts share ids: 'f', 'g'"):
        run(of(1, 'train'), of(1, 'val'), of(0, 'test'))
    left_out = str(images.parent / 'splits' / 'fold_0' / 'test.csv')
    run(dict(of(2, 'train'), without=left_out), dict(of(2, 'val'), without=left_out), of(0, 'test'))
