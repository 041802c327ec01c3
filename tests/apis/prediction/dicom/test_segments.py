"""Files of codes: every invalid entry is one line with its key."""

import copy
import json

import pytest

from mmkdml.apis.prediction.dicom import read_segments

CODES = {
    'algorithm': 'Networks',
    'segments': {
        'tumor': {
            'label': 'Glioma',
            'category': {
                'scheme': 'SCT',
                'value': '49755003',
                'meaning': 'Morphologically Altered Structure',
            },
            'type': {'scheme': 'SCT', 'value': '108369006', 'meaning': 'Neoplasm'},
        }
    },
}


@pytest.fixture
def write(tmp_path):
    def make(content):
        path = tmp_path / 'codes.json'
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return make


def test_valid_file(write):
    codes = read_segments(write(CODES))
    assert codes.algorithm == 'Networks'
    assert codes.content == CODES
    (segment,) = codes.of_classes(['background', 'tumor'])
    assert (segment.label, segment.type.value) == ('Glioma', '108369006')


def test_segments_in_the_order_of_the_classes(write):
    content = copy.deepcopy(CODES)
    entry = content['segments']['tumor']
    content['segments'] = {name: {**entry, 'label': name.upper()} for name in 'cab'}
    codes = read_segments(write(content))
    assert [one.label for one in codes.of_classes(['x', 'a', 'b', 'c'])] == ['A', 'B', 'C']
    for classes in (['x', 'a', 'b'], ['x', 'a', 'b', 'c', 'd'], ['a', 'b', 'c']):
        with pytest.raises(ValueError, match=r'codes.json: segments: .*class .*got c, a, b'):
            codes.of_classes(classes)


@pytest.mark.parametrize(
    ('place', 'value', 'message'),
    [
        ('algorithm', None, 'codes.json: expected the keys algorithm, segments, got segments'),
        ('algorithm', '', 'algorithm: expected a text of 1 to 64 .*got '),
        ('algorithm', 'x' * 65, 'algorithm: expected a text of 1 to 64 characters'),
        ('author', 'me', 'codes.json: expected the keys .* got algorithm, segments, author'),
        ('segments', [], r'segments: expected a JSON object .*got \[\]'),
        ('segments', {}, r'segments: expected a JSON object .*got \{\}'),
        ('segments.tumor', 'Glioma', 'tumor: expected a JSON object with the keys label, category'),
        ('segments.tumor.label', 5, 'tumor.label: expected a text .* got 5'),
        ('segments.tumor.label', 'a\\b', 'tumor.label: .* without backslash'),
        ('segments.tumor.label', 'a\nb', 'tumor.label: expected a text'),
        ('segments.tumor.color', 'red', 'tumor: expected the keys .* type, color'),
        ('segments.tumor.type', None, 'tumor: expected the keys .* got label, category'),
        ('segments.tumor.type.value', 108369006, 'tumor.type.value: expected a text .*got 108369'),
        ('segments.tumor.type.value', '108396006', 'type.value: .*check digit, got .108396006'),
        ('segments.tumor.type.value', '10836900', 'type.value: .*check digit'),
        ('segments.tumor.type.value', 'M-80003', 'type.value: expected a SNOMED CT code of 6 to'),
        ('segments.tumor.type.value', '0' * 17, 'type.value: expected a text of 1 to 16'),
        ('segments.tumor.type.scheme', '', 'type.scheme: expected a text of 1 to 16'),
        ('segments.tumor.type.meaning', 'x' * 65, 'type.meaning: expected a text of 1 to 64'),
        ('segments.tumor.category.scheme', None, 'category: .* scheme, value, meaning, got value'),
    ],
)
def test_invalid_entries_raise(write, place, value, message):
    content = copy.deepcopy(CODES)
    *parents, key = place.split('.')
    entry = content
    for one in parents:
        entry = entry[one]
    if value is None:
        del entry[key]
    else:
        entry[key] = value
    with pytest.raises(ValueError, match=message) as refused:
        read_segments(write(content))
    assert '\n' not in str(refused.value)


@pytest.mark.parametrize('text', ['', '{', '[1]', '"x"', '{"a": 1, "a": 2}', '[' * 100_000])
def test_files_that_are_no_json_object_raise(write, text):
    with pytest.raises(ValueError, match='codes.json: expected a JSON'):
        read_segments(write(text))


def test_missing_file_and_other_schemes(write, tmp_path):
    with pytest.raises(FileNotFoundError, match='No such file of codes: .*nowhere'):
        read_segments(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='expected a JSON file of codes'):
        read_segments(tmp_path)
    content = copy.deepcopy(CODES)
    content['segments']['tumor']['type'] = dict(scheme='99ME', value='T1', meaning='Mine')
    assert read_segments(write(content)).segments['tumor'].type.value == 'T1'


@pytest.mark.parametrize(
    ('name', 'scheme'), [('Liver', 'SCT'), ('Kidney', 'SCT'), ('Neoplasm', 'SCT'), ('Lung', 'SCT')]
)
def test_codes_of_the_standard_are_valid(write, name, scheme):
    codes = pytest.importorskip('pydicom.sr.codedict').codes
    code = getattr(getattr(codes, scheme), name)
    entry = dict(scheme=code.scheme_designator, value=code.value, meaning=code.meaning)
    content = copy.deepcopy(CODES)
    content['segments']['tumor']['type'] = entry
    assert read_segments(write(content)).content == content
