from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from PIL import Image

from mmkdml.datasets import SplitClassificationDataset, SplitSegDataset
from mmkdml.datasets.splits import SplitRow, read_split, write_splits

HEADERS = (
    'id,path,group,label', 'id,path,mask,group,label', 'id,path,mask,group,label,repeats',
)  # fmt: skip
FIELDS = st.sampled_from(
    [
        'a',
        'b',
        'images/a.png',
        '../a.png',
        '/a',
        'C:a',
        '',
        ' ',
        '0',
        '1',
        '-1',
        '²',
        '1e3',
        '9' * 30,
    ]
) | st.text(max_size=8)
TABLES = st.builds(
    lambda header, rows: '\n'.join([header, *map(','.join, rows)]).encode(errors='surrogatepass'),
    st.sampled_from(HEADERS) | st.text(max_size=20),
    st.lists(st.lists(FIELDS, min_size=3, max_size=7), max_size=4),
)
NAMES = st.text(st.characters(exclude_categories=[]), max_size=6)


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Data set of one image and its mask."""
    folder = tmp_path_factory.mktemp('data')
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / 'a.png')
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / 'm.png')
    return folder


@given(content=TABLES | st.binary(max_size=80))
@example(content=b'id,path,group,label\n"a')
@example(content=b'id,path,group,label\na,b,c,' + b'9' * 5000)
@example(content=b'id,path,group,label\na,b,c,0\n' + b'x' * 140_000)
def test_split_files_with_any_content(root, attempt, content):
    path = root / 'split.csv'
    path.write_bytes(content)
    rows = attempt(lambda: read_split(path), str(path))
    assert rows is None or all(isinstance(row, SplitRow) for row in rows)


@given(
    mask=st.sampled_from([None, 'm.png', 'a.png', 'none.png', '.']),
    label=st.integers(0, 3) | st.integers(0, 10**30),
    repeats=st.integers(1, 3) | st.integers(10**8, 10**30),
    test_mode=st.booleans(),
    kind=st.sampled_from([SplitClassificationDataset, SplitSegDataset]),
)
@example(mask=None, label=0, repeats=10**12, test_mode=False, kind=SplitClassificationDataset)
def test_data_sets_of_valid_split_files(root, attempt, kind, mask, label, repeats, test_mode):
    path = root / 'split.csv'
    header = 'id,path,group,label,repeats' if mask is None else HEADERS[-1]
    fields = ['a', 'a.png', *([] if mask is None else [mask]), 'g', str(label), str(repeats)]
    path.write_text(f'{header}\n{",".join(fields)}\n')
    dataset = attempt(
        lambda: kind(
            ann_file=str(path),
            data_root=str(root),
            metainfo=dict(classes=('no', 'yes')),
            test_mode=test_mode,
        ),
        str(path),
    )
    if dataset is not None:
        assert len(dataset) == repeats


@given(
    rows=st.lists(
        st.tuples(
            NAMES, NAMES, NAMES, st.integers(0, 10**20), st.none() | NAMES, st.integers(0, 9)
        ),
        min_size=1,
        max_size=4,
    )
)
@example(rows=[('a\rb', 'a.png', 'g', 0, None, 1)])
@example(rows=[('\udcff', 'a.png', 'g', 0, None, 1)])
@example(rows=[('a', 'a.png', 'g\0', 0, None, 1)])
def test_round_trip_of_split_files(root, attempt, rows):
    made = attempt(lambda: [SplitRow(*row) for row in rows])
    assume(made is not None)
    out = root / 'written'
    files = attempt(lambda: write_splits(out, {'train': made}, {}, force=True))
    if files is not None:
        assert read_split(files[0]) == sorted(made, key=lambda row: row.id)
        again = [Path(path).read_bytes() for path in files]
        assert write_splits(out, {'train': made[::-1]}, {}) == files
        assert [path.read_bytes() for path in files] == again
