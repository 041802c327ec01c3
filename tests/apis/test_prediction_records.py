import json
import os

import pytest
from mmengine.config import Config

from mmkdml.apis.image_sources import Source
from mmkdml.apis.prediction_records import Records, decisive_sha256, write_text

SETTINGS = dict(members=['teacher'], window=None)


@pytest.fixture
def source(tmp_path):
    files = [tmp_path / name for name in 'ab']
    for file in files:
        file.write_bytes(b'123')
    return Source('sub/case', tuple(files))


@pytest.fixture
def out(tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'mask.png').write_bytes(b'x')
    return tmp_path / 'out'


def test_a_finished_case_is_found_again(source, out):
    rows = [dict(image=0, member='teacher', score=0.1)]
    records = Records(out, SETTINGS)
    assert records.find(source) is None
    records.keep(source, rows, [out / 'mask.png'])
    assert records.find(source) == rows
    assert Records(out, dict(SETTINGS)).find(source) == rows
    assert records.find(Source('sub/other', source.files)) is None
    assert records.find(Source('sub/case')) is None  # an array may hold anything


@pytest.mark.parametrize('change', ['content', 'time', 'settings', 'gone', 'mask', 'record'])
def test_what_changed_is_not_finished(source, out, change):
    settings = dict(SETTINGS)
    Records(out, settings).keep(source, [], [out / 'mask.png'])
    if change == 'content':
        times = source.files[0].stat()
        source.files[0].write_bytes(b'1234')
        os.utime(source.files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == 'time':
        os.utime(source.files[1], (10, 10_000_000_000))
    elif change == 'settings':
        settings['window'] = [0, 1]
    elif change == 'gone':
        source.files[0].unlink()
    elif change == 'mask':
        (out / 'mask.png').unlink()
    else:
        (out / 'cases' / 'sub' / 'case.json').write_text('{"stamp":')
    assert Records(out, settings).find(source) is None


def test_other_settings_are_refused_where_there_are_answers(source, out):
    other = Records(out, dict(SETTINGS, window=[0, 1]))
    Records(out, SETTINGS).claim()
    assert json.loads((out / 'settings.json').read_text()) == SETTINGS
    other.claim()  # there are no answers yet
    other.keep(source, [], [])
    with pytest.raises(ValueError, match=r'other settings \(window: \[0, 1\] there, None now\)'):
        Records(out, SETTINGS).claim()
    other.claim()
    Records(out, SETTINGS).claim(force=True)
    with pytest.raises(
        ValueError, match=r'window: None there, \[0, 1\] now\); choose another folder'
    ):
        other.claim()
    (out / 'settings.json').write_text('[]')  # of somebody else
    with pytest.raises(ValueError, match=r'members: None there, .*or replace them with --force'):
        other.claim()


def test_only_what_decides_counts():
    config = Config(dict(model=dict(type='a'), work_dir='x', test_pipeline=[dict(type='b')]))
    digest = decisive_sha256(config)
    assert len(digest) == 64
    config.work_dir = 'y'
    assert decisive_sha256(config) == digest
    config.test_pipeline[0].scale = 3
    assert decisive_sha256(config) != digest


def test_a_file_is_written_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / 'new' / 'x.txt'
    write_text(path, 'ö\n')
    monkeypatch.setattr(os, 'replace', lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_text(path, 'other')
    assert path.read_text(encoding='utf-8') == 'ö\n'
