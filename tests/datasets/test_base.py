import traceback
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import worker_init_fn
from mmpretrain.datasets import PackInputs
from mmseg.datasets import LoadAnnotations, PackSegInputs
from PIL import Image
from torch.utils.data import DataLoader

from mmkdml.datasets import (
    LGGDataset,
    LoadBinaryMask,
    LoadCheckedImage,
    LoadClassMask,
    PCamDataset,
    SplitClassificationDataset,
    SplitSegDataset,
    base,
)
from mmkdml.datasets.splits import SplitRow, read_split, write_splits

SEG = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
CLASSIFY = [dict(type=LoadImageFromFile), dict(type=PackInputs)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images and masks in images/, split files in splits/ of the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    rows = []
    for name in 'abcdef':
        cv2.imwrite(f'images/{name}.tif', np.full((8, 8, 3), 7, np.uint8))
        cv2.imwrite(f'images/{name}_mask.tif', np.zeros((8, 8), np.uint8))
        rows.append(SplitRow(name, f'{name}.tif', f'patient {name}', 0, f'{name}_mask.tif'))
    write_splits('splits', dict(train=rows), {})
    return tmp_path / 'images'


def build(cls, ann_file='splits/train.csv', data_root='images', **kwargs):
    pipeline = SEG if issubclass(cls, SplitSegDataset) else CLASSIFY
    return cls(ann_file=ann_file, data_root=data_root, pipeline=pipeline, **kwargs)


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_ann_file_is_relative_to_the_working_directory(data, cls):
    for root in ('images', str(data), 'images/'):
        dataset = build(cls, data_root=root)
        assert len(dataset) == 6
        assert dataset.ann_file == 'splits/train.csv'
        info = dataset.get_data_info(1)
        assert (info['id'], info['group']) == ('b', 'patient b')
        assert 'images/b.tif' in info['img_path']
        assert dataset[1]['inputs'].shape == (3, 8, 8)


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_framework_arguments_are_passed_on(data, cls):
    assert len(build(cls, indices=2)) == 2
    assert not build(cls, lazy_init=True)._fully_initialized


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_wrong_paths_raise_at_build(data, cls):
    with pytest.raises(FileNotFoundError, match='No split file splits/x.csv'):
        build(cls, ann_file='splits/x.csv')
    with pytest.raises(
        FileNotFoundError, match="data_root.* got 'splits'.*train.csv is not at .*a.tif"
    ):
        build(cls, data_root='splits')


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
@pytest.mark.parametrize('name', ['c.tif', 'c_mask.tif', 'sub/c.tif'])
def test_links_out_of_data_root_raise(data, cls, name):
    outside = data.parent / 'outside'
    outside.mkdir()
    (data / 'c.tif').rename(outside / 'c.tif')
    (data / 'c_mask.tif').rename(outside / 'c_mask.tif')
    for linked in ('c.tif', 'c_mask.tif'):
        place = outside if linked == name else data
        (outside / linked).rename(place / f'kept_{linked}')
        (data / linked).symlink_to(place / f'kept_{linked}')
    if name.startswith('sub'):
        (outside / 'c.tif').symlink_to(data / 'kept_c.tif')
        (data / 'sub').symlink_to(outside)
        rows = [
            replace(row, path=name) if row.id == 'c' else row
            for row in read_split('splits/train.csv')
        ]
        write_splits('splits', dict(train=rows), {}, force=True)
        (outside / 'c.tif').unlink()
        (outside / 'c.tif').write_bytes((data / 'kept_c.tif').read_bytes())
    with pytest.raises(
        ValueError,
        match=f"^{cls.__name__}: splits/train.csv: {name} of 'c' leads out .*/outside/.*allow_o",
    ):
        build(cls)
    assert len(build(cls, allow_outside=True)) == 6


def test_links_inside_data_root_are_allowed(data):
    (data / 'c.tif').rename(data / 'else.tif')
    (data / 'c.tif').symlink_to('else.tif')
    (data.parent / 'linked').symlink_to(data)
    assert len(build(LGGDataset, data_root='linked')) == 6
    (data.parent / 'images_2').mkdir()  # the root is a prefix of its name
    (data / 'c.tif').unlink()
    (data / 'c.tif').symlink_to('../images_2/c.tif')
    with pytest.raises(ValueError, match="c.tif of 'c' leads out of linked, to .*/images_2/c.tif"):
        build(LGGDataset, data_root='linked')


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('cls', 'file', 'damage'),
    [
        (LGGDataset, 'd.tif', lambda path: path.unlink()),
        (LGGDataset, 'd.tif', truncate),
        (LGGDataset, 'd_mask.tif', lambda path: path.unlink()),
        (LGGDataset, 'd_mask.tif', truncate),
        (PCamDataset, 'd.tif', truncate),
        (PCamDataset, 'd.tif', lambda path: path.write_bytes(b'')),
    ],
)
def test_broken_file_is_named_in_the_error(data, workers, test_mode, cls, file, damage):
    loader = DataLoader(
        build(cls, test_mode=test_mode),
        batch_size=2,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=partial(worker_init_fn, num_workers=2, rank=0, seed=0),
    )
    assert len(list(loader)) == 3
    damage(data / file)
    with pytest.raises(
        RuntimeError,
        match=f'{cls.__name__}: sample 3 .*images/{file}.* of '
        'splits/train.csv could not be prepared',
    ) as caught:
        list(loader)
    traceback.clear_frames(caught.tb)  # otherwise the loader waits 5 s for each worker


def test_label_without_class_raises(data):
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 2)]), {})
    with pytest.raises(
        ValueError, match="more/train.csv: invalid label 2 of 'a': .* the 2 classes"
    ):
        build(PCamDataset, ann_file='more/train.csv')


def test_any_label_is_valid_without_classes(data):
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 2)]), {})
    dataset = build(SplitClassificationDataset, ann_file='more/train.csv')
    assert dataset.get_gt_labels().tolist() == [2]


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_repeats_yield_several_samples(data, cls):
    rows = [
        replace(row, repeats=repeats)
        for row, repeats in zip(read_split('splits/train.csv'), (1, 3, 1, 1, 2, 1), strict=True)
    ]
    write_splits('more', dict(train=rows), {})
    dataset = build(cls, ann_file='more/train.csv')
    assert [dataset.get_data_info(i)['id'] for i in range(len(dataset))] == list('abbbcdeef')
    # The samples are independent.
    first, second = (dataset.get_data_info(i) for i in (1, 2))
    first.setdefault('seg_fields', []).append('gt_seg_map')
    assert second.get('seg_fields', []) == []
    with pytest.raises(ValueError, match="more/train.csv: expected no repeats .* got 3 for 'b'"):
        build(cls, ann_file='more/train.csv', test_mode=True)


def test_metainfo_names_the_classes(data):
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 2)]), {})
    named = partial(build, SplitClassificationDataset, ann_file='more/train.csv')
    dataset = named(metainfo=dict(classes=('fat', 'mucus', 'tumour')))
    assert dataset.CLASSES == ('fat', 'mucus', 'tumour')
    with pytest.raises(ValueError, match="invalid label 2 of 'a': .* the 2 classes"):
        named(metainfo=dict(classes=('fat', 'mucus')))

    named = partial(build, SplitSegDataset)
    assert named().metainfo['classes'] == ('background', 'foreground')
    assert named(metainfo=dict(classes=('gut', 'polyp'))).metainfo['classes'] == ('gut', 'polyp')
    for classes in (('polyp',), ('gut', 'polyp', 'tool')):
        with pytest.raises(ValueError, match='expected two classes, the background first.* got'):
            named(metainfo=dict(classes=classes))


def test_palette_masks_are_read_by_color(data):
    """LoadAnnotations of mmseg would use the indices as classes."""
    image = Image.fromarray(np.pad(np.uint8([[0]]), (2, 5), constant_values=1), 'P')
    image.putpalette([255, 255, 255, 0, 0, 0])
    image.save('images/a_mask.png')
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 1, 'a_mask.png')]), {})
    maps = [
        build_with(loader)[0]['data_samples'].gt_sem_seg.data[0].numpy()
        for loader in (LoadBinaryMask, LoadAnnotations)
    ]
    expected = np.zeros((8, 8))
    expected[2, 2] = 1
    assert np.array_equal(maps[0], expected)
    assert np.array_equal(maps[1], 1 - expected)


def build_with(loader):
    return SplitSegDataset(
        ann_file='more/train.csv',
        data_root='images',
        pipeline=[dict(type=LoadImageFromFile), dict(type=loader), dict(type=PackSegInputs)],
    )


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
@pytest.mark.parametrize('settings', [{}, dict(limit=2), dict(dir='cache', size=3)])
def test_invalid_image_cache_raises(data, cls, settings):
    with pytest.raises(ValueError, match=f'image_cache: expected .*dir.*limit.*, got {settings}'):
        build(cls, image_cache=settings)


def test_lazy_data_set_decodes_nothing(data):
    dataset = build(LGGDataset, image_cache=dict(dir='cache'), lazy_init=True)
    assert not (data.parent / 'cache').exists()
    dataset.full_init()
    packs = sorted((data.parent / 'cache').glob('*.pack'))
    assert len(packs) == 1  # LoadAnnotations is not cached
    dataset.full_init()
    assert type(dataset.pipeline.transforms[0].load) is LoadImageFromFile


def test_lossy_loader_is_logged(data, monkeypatch):
    logged = []
    monkeypatch.setattr(base, 'print_log', lambda message, *_: logged.append(message))
    SplitClassificationDataset(
        ann_file='splits/train.csv',
        data_root='images',
        pipeline=[dict(type=LoadCheckedImage), dict(type=PackInputs)],
    )
    assert not logged
    build(SplitClassificationDataset)
    assert len(logged) == 1
    assert 'LoadCheckedImage' in logged[0]


TABLE = dict(values=[0, 60, 120], ignore=[255])


@pytest.fixture
def organs(data):
    """Split files of three classes, whose mask has each value once in its first row."""
    mask = np.zeros((8, 8), np.uint8)
    mask[0, :4] = [0, 60, 120, 255]
    cv2.imwrite('images/a_mask.tif', mask)
    rows = [SplitRow('a', 'a.tif', 'g', 2, 'a_mask.tif')]
    write_splits('organs', dict(train=rows), {'classes': 'xyz', 'mask_table': TABLE})
    return data


@pytest.mark.parametrize('loader', [LoadClassMask, LoadBinaryMask])
@pytest.mark.parametrize('cached', [False, True])
def test_masks_of_several_classes_are_loaded_by_the_table(organs, loader, cached):
    settings = dict(
        ann_file='organs/train.csv',
        data_root='images',
        pipeline=[dict(type=LoadCheckedImage), dict(type=loader), dict(type=PackSegInputs)],
        image_cache=dict(dir='cache') if cached else None,
    )
    dataset = SplitSegDataset(**settings)
    loaded = dataset[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert loaded[0].tolist() == [0, 1, 2, 255, 0, 0, 0, 0]
    assert not loaded[1:].any()
    assert dataset.metainfo['classes'] == ('x', 'y', 'z')
    assert len(dataset.metainfo['palette']) == 3
    # Another table is other pixels, also in the cache.
    other = SplitSegDataset(**settings, mask_table=dict(values=[60, 120, 255], ignore=[0]))
    loaded = other[0]['data_samples'].gt_sem_seg.data[0].numpy()
    assert loaded[0, :4].tolist() == [255, 0, 1, 2]


def test_load_annotations_without_the_table_raises(organs):
    dataset = build(SplitSegDataset, 'organs/train.csv')
    with pytest.raises(RuntimeError, match=r'a\.tif: LoadAnnotations .* table .*Use LoadClassMask'):
        dataset[0]


def test_classes_of_the_manifest_are_kept(organs):
    with pytest.raises(ValueError, match=r"expected 3 classes, \('x', 'y', 'z'\).*'y', 'x'"):
        build(SplitSegDataset, 'organs/train.csv', metainfo=dict(classes=('y', 'x', 'z')))
    with pytest.raises(ValueError, match="expected 3 classes.*'background', 'tumour'"):
        build(LGGDataset, 'organs/train.csv')


def test_images_of_another_split_file_are_left_out(data):
    rows = read_split('splits/train.csv')
    write_splits('other', dict(test=rows[1:4]), {})
    dataset = build(PCamDataset, without='other/test.csv')
    assert [dataset.get_data_info(i)['id'] for i in range(len(dataset))] == ['a', 'e', 'f']
    with pytest.raises(ValueError, match='without: expected images in splits/train.csv'):
        build(PCamDataset, without='splits/train.csv')
    with pytest.raises(FileNotFoundError, match='No split file x.csv'):
        build(PCamDataset, without='x.csv')
