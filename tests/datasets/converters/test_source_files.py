import os

import pytest

from mmkdml.datasets.converters.source_files import find_files, read_table

HAM_TAB = (
    'lesion_id\timage_id\tdx\tdx_type\tage\tsex\tlocalization\tdataset\r\n'
    '"HAM_0000118"\t"ISIC_0027419"\t"bkl"\t"histo"\t80.0\t"male"\t"scalp"\t"vidir, modern"\r\n'
)
COLUMNS = ['lesion_id', 'image_id', 'dx']


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')


def test_capitals_in_suffixes_do_not_matter(tmp_path):
    for name in ('a.JPG', 'b/c.Jpeg', 'b/d.TIF', 'e.png', 'f.txt', 'g_mask.PNG'):
        touch(tmp_path / name)
    assert find_files(tmp_path, tmp_path) == ['a.JPG', 'b/c.Jpeg', 'b/d.TIF', 'e.png', 'g_mask.PNG']
    assert find_files(tmp_path / 'b', tmp_path, ['.tif']) == ['b/d.TIF']
    assert find_files(tmp_path, tmp_path, ['_mask.png']) == ['g_mask.PNG']


def test_hidden_and_system_files_are_skipped(tmp_path):
    for name in ('._a.jpg', '.DS_Store', 'Thumbs.db', '.cache/b.jpg', '__MACOSX/x/c.jpg'):
        touch(tmp_path / name)
    touch(tmp_path / 'x' / '@eaDir' / 'd.jpg')
    assert find_files(tmp_path, tmp_path) == []


def test_links_to_folders_are_followed_without_loops(tmp_path):
    source, elsewhere = tmp_path / 'source', tmp_path / 'elsewhere'
    touch(source / 'a' / '1.png')
    touch(elsewhere / '2.png')
    (source / 'linked').symlink_to(elsewhere)
    (source / 'a' / 'up').symlink_to(source)
    (elsewhere / 'self').symlink_to(elsewhere)
    (source / 'a' / 'outside').symlink_to(tmp_path)
    assert find_files(source, source) == ['a/1.png', 'linked/2.png']


def test_two_folders_that_link_to_each_other_end(tmp_path):
    for one, other in ('ab', 'ba'):
        touch(tmp_path / one / f'{one}.png')
        (tmp_path / one / 'link').symlink_to(tmp_path / other)
    found = find_files(tmp_path, tmp_path)
    assert found == ['a/a.png', 'a/link/b.png', 'b/b.png', 'b/link/a.png']


@pytest.mark.skipif(os.geteuid() == 0, reason='root reads every folder')
def test_unreadable_folder_raises(tmp_path):
    (tmp_path / 'a').mkdir(mode=0)
    with pytest.raises(PermissionError):
        find_files(tmp_path, tmp_path)


def test_table_of_dataverse(tmp_path):
    (tmp_path / 'HAM10000_metadata.tab').write_bytes(HAM_TAB.encode())
    name, rows = read_table(tmp_path, 'HAM10000_metadata.csv', COLUMNS)
    assert name == 'HAM10000_metadata.tab'
    assert rows == [(2, ('HAM_0000118', 'ISIC_0027419', 'bkl'))]


@pytest.mark.parametrize(
    ('name', 'separator'),
    [('x.csv', ';'), ('X.CSV', ','), ('x.tsv', '\t'), ('x', ','), ('x.csv', '\t')],
)
def test_separators_and_names(tmp_path, name, separator):
    text = '\ufeffid, more ,label\n1,"a,b",0\n\n2,c,1\n'
    if separator != ',':
        text = text.replace('"a,b"', 'a').replace(',', separator)
    (tmp_path / name).write_text(text, encoding='utf-8')
    found, rows = read_table(tmp_path, 'x.csv', ['label', 'id'])
    assert (found, rows) == (name, [(2, ('0', '1')), (4, ('1', '2'))])


def test_several_tables_raise(tmp_path):
    touch(tmp_path / 'x.tab')
    touch(tmp_path / 'x.txt')
    with pytest.raises(ValueError, match='one table x.csv, got x.tab, x.txt'):
        read_table(tmp_path, 'x.csv', ['id'])
    touch(tmp_path / 'x.csv')
    with pytest.raises(ValueError, match='x.csv, line 1: expected the columns id, got'):
        read_table(tmp_path, 'x.csv', ['id'])
