"""Interrupted, continued and repeated predictions."""

import copy
import errno
import os
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from mmkdml.apis.prediction.outputs import predict_files
from mmkdml.apis.prediction.predictor import Predictor


def read_table(out):
    return pd.read_csv(out / 'predictions.csv')


def test_finished_cases_are_skipped(segmentor, pictures, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    predicted = []
    stream = segmentor.stream
    monkeypatch.setattr(
        segmentor,
        'stream',
        lambda sources, **options: (
            predicted.append([source.name for source in sources]) or stream(sources, **options)
        ),
    )

    def run(**options):
        predict_files(segmentor, pictures, out, overlays=False, **options)
        return predicted.pop()

    assert run() == ['one', 'stack', 'sub/two']
    table = read_table(out)
    assert run() == []
    pd.testing.assert_frame_equal(read_table(out), table)
    Image.new('RGB', (50, 40)).save(pictures / 'new.png')
    times = (pictures / 'one.png').stat()
    content = (pictures / 'one.png').read_bytes()
    one = Image.open(pictures / 'one.png')
    one.putpixel((3, 4), (0, 0, 0))
    one.save(pictures / 'one.png', compress_level=0)
    os.utime(pictures / 'sub' / 'two.jpg', (1, 1))  # its content is unchanged
    assert run() == ['new', 'one']
    (out / 'masks' / 'teacher' / 'one.png').write_bytes(content[:20])
    assert run() == ['one']
    os.utime(pictures / 'one.png', ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run() == []
    assert read_table(out).case.unique().tolist() == ['new', 'one', 'stack', 'sub/two']
    assert run(force=True) == ['new', 'one', 'stack', 'sub/two']


def test_interruption_loses_only_the_current_case(segmentor, pictures, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    write = Image.Image.save

    def stop(image, path, *args, **options):
        if 'student_1/.stack' in str(path):
            raise KeyboardInterrupt
        write(image, path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, 'save', stop)
        with pytest.raises(KeyboardInterrupt):
            predict_files(segmentor, pictures, out, overlays=False)
    assert [path.stem for path in (out / 'cases').iterdir()] == ['one']
    before = (out / 'cases' / 'one.json').stat().st_mtime_ns
    resumed = predict_files(segmentor, pictures, out, overlays=False)
    assert (out / 'cases' / 'one.json').stat().st_mtime_ns == before
    fresh = predict_files(segmentor, pictures, tmp_path / 'fresh', overlays=False)
    pd.testing.assert_frame_equal(resumed, fresh)
    for path in (tmp_path / 'fresh' / 'masks').rglob('*.*'):
        assert (out / path.relative_to(tmp_path / 'fresh')).read_bytes() == path.read_bytes()


def test_prediction_continues_after_a_full_disk(segmentor, pictures, tmp_path, monkeypatch):
    out = tmp_path / 'out'

    def full(*args, **options):
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, 'save', full)
        with pytest.raises(OSError, match='No space left on device'):
            predict_files(segmentor, pictures, out)
    assert not (out / 'cases').exists()
    with monkeypatch.context() as patched:
        patched.setattr(Path, 'write_text', full)
        with pytest.raises(OSError, match='No space left on device'):
            predict_files(segmentor, pictures, tmp_path / 'other')
    assert predict_files(segmentor, pictures, out).case.nunique() == 3


def test_invalid_call_leaves_no_files(segmentor, pictures, tmp_path):
    """Otherwise the corrected call would be refused because its settings differ."""
    out = tmp_path / 'out'
    with pytest.raises(ValueError, match='members: expected some of'):
        predict_files(segmentor, pictures, out, members=['tutor'])
    with pytest.raises(ValueError, match='batch_size: expected an integer'):
        predict_files(segmentor, pictures, out, batch_size=0)
    with pytest.raises(FileNotFoundError, match='No such image or folder'):
        predict_files(segmentor, tmp_path / 'nowhere', out)
    assert not out.exists()
    with pytest.raises(ValueError, match='one.png: expected a folder, got a file'):
        predict_files(segmentor, pictures / 'sub', pictures / 'one.png')
    (pictures / 'bad.png').write_text('no image')
    with pytest.raises(ValueError, match='1 of 1 cases failed'):
        predict_files(segmentor, pictures / 'bad.png', out)
    assert predict_files(segmentor, pictures / 'one.png', out, augment=True).shape == (4, 4)


def test_other_settings_raise_without_force(segmentor, predictors, pictures, tmp_path):
    out = tmp_path / 'out'
    one = pictures / 'one.png'
    predict_files(segmentor, one, out, overlays=False)
    with pytest.raises(ValueError, match=r'other settings [^\0]*augment: False -> True\n'):
        predict_files(segmentor, one, out, overlays=False, augment=True)
    with pytest.raises(ValueError, match="config: 'kdml_v3_demo' -> 'kdml_v3_demo_slices'"):
        predict_files(predictors['kdml_v3_demo_slices'], one, out)
    smaller = copy.deepcopy(segmentor.config)
    smaller.test_dataloader.dataset.pipeline[1].scale = (32, 32)
    other = Predictor(segmentor.model, smaller, segmentor.classes, segmentor.checkpoint)
    with pytest.raises(ValueError, match=r'\(old -> new\):\n  config_sha256: .*\nChoose'):
        predict_files(other, one, out, overlays=False)
    before = read_table(out)
    predict_files(segmentor, one, out, overlays=False, augment=True, force=True)
    assert not read_table(out).equals(before)
    with pytest.raises(ValueError, match='augment: True -> False'):
        predict_files(segmentor, one, out, overlays=False)
