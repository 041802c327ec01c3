import json

import pytest

from mmkdml.datasets.class_masks import ClassTable
from mmkdml.datasets.converters.class_table import read_class_table

NAMES = ('background', 'liver', 'kidney')
COLORS = ((0, 0, 0), (200, 0, 0), (0, 200, 0))


@pytest.mark.parametrize(
    ('file', 'text', 'table'),
    [
        ('a.csv', 'name,value\nbackground,0\nliver,5\nkidney,9\n', ClassTable((0, 5, 9))),
        ('a.csv', 'value;name\n0;background\n5;liver\n9;kidney\n', ClassTable((0, 5, 9))),
        (
            'a.csv',
            'name,r,g,b\nbackground,0,0,0\nliver,200,0,0\nkidney,0,200,0\n',
            ClassTable(COLORS),
        ),
        (
            'a.csv',
            'name,value,r,g,b\nbackground,0,0,0,0\nliver,1,200,0,0\nkidney,2,0,200,0\n',
            ClassTable((0, 1, 2), colors=COLORS),
        ),
        ('a.json', json.dumps(NAMES), ClassTable((0, 1, 2))),
        ('a.json', json.dumps(dict(zip(NAMES, (0, 5, 9), strict=True))), ClassTable((0, 5, 9))),
        ('a.json', json.dumps(dict(zip(NAMES, COLORS, strict=True))), ClassTable(COLORS)),
    ],
)
def test_formats_of_tables(tmp_path, file, text, table):
    (tmp_path / file).write_text(text)
    assert read_class_table(tmp_path, file) == (NAMES, table)


def test_ignored_values(tmp_path):
    (tmp_path / 'a.json').write_text(json.dumps(NAMES))
    assert read_class_table(tmp_path, 'a.json', ['254', '255'])[1].ignore == (254, 255)
    (tmp_path / 'b.json').write_text(json.dumps(dict(zip(NAMES, COLORS, strict=True))))
    assert read_class_table(tmp_path, 'b.json', ['255,255,255'])[1].ignore == ((255, 255, 255),)
    for ignore, message in (('x', "got 'x'"), ('1,2', "got '1,2'"), ('1,2,3', 'only values or')):
        with pytest.raises(ValueError, match=rf'a\.json: .*{message}'):
            read_class_table(tmp_path, 'a.json', [ignore])


@pytest.mark.parametrize(
    ('file', 'text', 'message'),
    [
        ('a.csv', 'name,label\na,0\n', r'a\.csv.*columns name and value, or name, r, g and b'),
        ('a.csv', 'class,value\na,0\n', r'a\.csv.*without name'),
        ('a.csv', 'name,value\na,0\nb\n', r'a\.csv, line 3: expected 2 values'),
        ('a.csv', 'name,value\na,0\nb,-1\n', "got '-1'"),
        ('a.csv', 'name,value\na,0\na,1\n', r"different names.* \['a', 'a'\]"),
        ('a.csv', 'name,value\na,0\n,1\n', 'different names'),
        ('a.csv', 'name,value\na,0\nb,0\n', 'each value once, got 0'),
        ('a.csv', 'name,value\na,0\n', 'expected 2 to 255 classes, got 1'),
        ('a.json', '{"a": 0, "a": 1}', r"different names.* \['a', 'a'\]"),
        ('a.json', '{"a": 0, "b": "red"}', 'got red'),
        ('a.json', '{"a": 0, "b": true}', 'got True'),
        ('a.json', '[1, 2]', 'a list of names, or an object'),
        ('a.json', '"a"', 'a list of names, or an object'),
        ('a.json', '{', r'Invalid classes in .*a\.json'),
        ('a.json', '[' * 100_000, r'Invalid classes in .*a\.json'),
    ],
)
def test_invalid_tables_name_the_file(tmp_path, file, text, message):
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        read_class_table(tmp_path, file)
    assert str(tmp_path / file) in str(raised.value)


def test_missing_table_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'none\.csv. --classes is relative to'):
        read_class_table(tmp_path, 'none.csv')
