import json
import os

import pytest
from mmengine.config import Config

from mmkdml.apis.output_folder import OutputFolder
from mmkdml.apis.prediction.finished_cases import Records, decisive_sha256
from mmkdml.apis.prediction.inputs import Source

SETTINGS = dict(members=['teacher'], window=None)


def open_records(out, settings):
    return Records(OutputFolder(out), settings)


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


def test_finished_case_is_found(source, out):
    rows = [dict(image=0, member='teacher', score=0.1)]
    records = open_records(out, SETTINGS)
    assert records.find(source) is None
    records.keep(source, rows, [out / 'mask.png'])
    assert records.find(source) == rows
    assert open_records(out, dict(SETTINGS)).find(source) == rows
    assert records.find(Source('sub/other', source.files)) is None
    assert records.find(Source('sub/case')) is None  # arrays are never skipped


@pytest.mark.parametrize(
    'change', ['content', 'size', 'settings', 'gone', 'mask', 'damaged', 'record']
)
def test_changed_case_is_not_found(source, out, change):
    settings = dict(SETTINGS)
    open_records(out, settings).keep(source, [], [out / 'mask.png'])
    if change in ('content', 'size'):  # with the old modification time, as after a copy
        times = source.files[0].stat()
        source.files[0].write_bytes(b'1243' if change == 'size' else b'124')
        os.utime(source.files[0], ns=(times.st_atime_ns, times.st_mtime_ns))
    elif change == 'settings':
        settings['window'] = [0, 1]
    elif change == 'gone':
        source.files[0].unlink()
    elif change == 'mask':
        (out / 'mask.png').unlink()
    elif change == 'damaged':
        (out / 'mask.png').write_bytes(b'y')
    else:
        (out / 'cases' / 'sub' / 'case.json').write_text('{"stamp":')
    assert open_records(out, settings).find(source) is None


def test_other_settings_raise_if_there_are_finished_cases(source, out):
    different = dict(SETTINGS, window=[0, 1])
    open_records(out, SETTINGS).claim()
    assert json.loads((out / 'settings.json').read_text()) == SETTINGS
    open_records(out, different).claim()  # no finished cases yet
    open_records(out, different).keep(source, [], [])
    with pytest.raises(ValueError, match=r'other settings [^\0]*window: \[0, 1\] -> None\n'):
        open_records(out, SETTINGS).claim()
    open_records(out, different).claim()
    open_records(out, SETTINGS).claim(force=True)
    with pytest.raises(ValueError, match=r'window: None -> \[0, 1\]\nChoose another folder'):
        open_records(out, different).claim()
    (out / 'settings.json').write_text('[]')  # not settings
    with pytest.raises(
        ValueError, match=r'members: \(not set\) -> (?s:.*)or replace them with --force'
    ):
        open_records(out, different).claim()


def test_decisive_sha256_ignores_incidental_settings():
    config = Config(dict(model=dict(type='a'), work_dir='x', test_pipeline=[dict(type='b')]))
    digest = decisive_sha256(config)
    assert len(digest) == 64
    config.work_dir = 'y'
    assert decisive_sha256(config) == digest
    config.test_pipeline[0].scale = 3
    assert decisive_sha256(config) != digest


def test_new_modification_time_changes_nothing(source, out):
    open_records(out, SETTINGS).keep(source, [], [out / 'mask.png'])
    os.utime(source.files[1], (10, 10_000_000_000))
    assert open_records(out, SETTINGS).find(source) == []


def test_file_that_changes_during_prediction_is_not_recorded(source, out):
    records = open_records(out, SETTINGS)
    records.find(source)
    source.files[1].write_bytes(b'other')
    assert not records.keep(source, [], [out / 'mask.png'])
    assert open_records(out, SETTINGS).find(source) is None


def test_outdated_outputs_of_a_case_are_removed(source, out):
    outputs = OutputFolder(out)
    for name in ('old.png', 'new.png'):
        outputs.write_text(name, name)
    (out / 'user.png').write_text('a user wrote it')
    records = open_records(out, SETTINGS)
    records.keep(source, [], [out / name for name in ('old.png', 'new.png', 'user.png')])
    records.keep(source, [], [out / 'new.png'])
    left = {path.name for path in out.glob('*.png')}
    assert left == {'mask.png', 'new.png', 'user.png'}
    records.forget(source)
    assert {path.name for path in out.glob('*.png')} == {'mask.png', 'user.png'}
    assert records.find(source) is None
