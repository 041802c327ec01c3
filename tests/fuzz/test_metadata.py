import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from mmkdml.datasets.converters.folders import convert_folders
from mmkdml.datasets.converters.ham10000 import METADATA, convert_ham10000
from mmkdml.datasets.converters.pcam import convert_pcam
from mmkdml.datasets.splits import read_split

RATIOS = st.lists(st.floats() | st.integers(0, 3), min_size=2, max_size=4)
CELLS = st.sampled_from(['a', 'b', 'c', 'l', '0', '1', 'nv', 'mel', 'NA', '', '"', '\r', ' ']) | (
    st.text(max_size=5)
)


def tables(*headers):
    """CSV files with one of the headers, or another one, and any cells."""
    return st.builds(
        lambda header, rows: '\n'.join([header, *map(','.join, rows)]).encode(),
        st.sampled_from(headers) | st.text(max_size=20),
        st.lists(st.lists(CELLS, max_size=5), max_size=5),
    ) | st.binary(max_size=60)


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """Three images in the folders of the published data sets."""
    folder = tmp_path_factory.mktemp('source')
    image = Image.fromarray(np.zeros((4, 4, 3), np.uint8))
    (folder / 'train').mkdir()
    for name in 'abc':
        image.save(folder / f'{name}.jpg')
        image.save(folder / 'train' / f'{name}.tif')
    return folder


@given(
    content=tables('lesion_id,image_id,dx', 'image_id,lesion_id,age,dx'),
    balance=st.sampled_from(['mean', 'none', 2]) | st.integers(-1, 3),
)
@example(content=b'lesion_id,image_id,dx\nl\n', balance='none')
@example(content=b'lesion_id,image_id,dx\n"a\rb",a,nv\nd,b,nv\ne,c,nv', balance='none')
@example(content=b'\xff\xfe', balance='none')
def test_ham10000_with_any_metadata(source, attempt, content, balance):
    (source / METADATA).write_bytes(content)
    splits = attempt(
        lambda: convert_ham10000(source, source / 'out', 'cls', balance=balance, force=True)
    )
    for name, rows in (splits or {}).items():
        assert read_split(source / 'out' / f'{name}.csv') == sorted(rows, key=lambda row: row.id)


@given(content=tables('id,label'), subset=st.integers(-1, 4))
@example(content=b'id,label\na,0\nb,\xff', subset=0)
@example(content=b'id,label\na,0\n' + b'x' * 140_000, subset=0)
def test_pcam_with_any_labels(source, attempt, content, subset):
    path = source / 'train_labels.csv'
    path.write_bytes(content)
    attempt(lambda: convert_pcam(source, source / 'out', subset, force=True))


@given(ratios=RATIOS, seed=st.integers())
def test_split_ratios(source, attempt, ratios, seed):
    (source / 'train_labels.csv').write_text('id,label\na,0\nb,1\nc,1\n')
    splits = attempt(lambda: convert_pcam(source, source / 'out', 0, ratios, seed, force=True))
    if splits is not None:
        assert sum(map(len, splits.values())) == 3
        assert list(splits) == [
            name for name, ratio in zip(('train', 'val', 'test'), ratios, strict=True) if ratio
        ]


@given(regex=st.text(max_size=8) | st.from_regex(r'[(a-c.)?*+{}0-9\\]{1,8}'))
@example(regex='(a{99999999999})')
@example(regex='(' * 5000 + ')' * 5000)
def test_group_regex(source, attempt, regex):
    attempt(lambda: convert_folders(source, source / 'out', 'train', 'train', '', regex))
    attempt(lambda: convert_folders(source, source / 'out', '', 'train', 'a', regex))


@given(
    names=st.lists(
        st.text(max_size=6) | st.sampled_from(['train', '.', '..']), min_size=3, max_size=3
    )
)
@example(names=['a\0', 'train', ''])
@example(names=['x' * 5000, 'train', ''])
def test_folder_names(source, attempt, names):
    images, masks, suffix = names
    attempt(lambda: convert_folders(source, source / 'out', images, masks, suffix, force=True))
