import dataclasses
import json

import numpy as np
import pytest

from mmkdml.apis.export import checkpoint as export_checkpoint
from mmkdml.apis.export import formats as exports
from mmkdml.apis.export.checkpoint import plain_config
from mmkdml.apis.export.checks import Agreement

IMAGES = [np.random.default_rng(0).integers(256, size=(3, 64, 64), dtype=np.uint8)]


@pytest.fixture(scope='module')
def source(random_source):
    return random_source('kdml_v3_demo_slices', 'student_1')


def test_checkpoint_is_written_and_compared(source, tmp_path):
    exported = exports.export(source, tmp_path, 'checkpoint', IMAGES)
    assert {path.suffix for path in tmp_path.iterdir()} == {'.py', '.pth', '.safetensors'}
    assert exported.agreement == Agreement(images=1, max_difference=0, other_labels=0)
    assert exported.needs == ()
    scores, _ = exported.predictors['checkpoint'](IMAGES[0][None])
    assert scores.sum() == pytest.approx(1)


@pytest.mark.slow
def test_graph_is_compared_and_timed(source, tmp_path):
    exported = exports.export(source, tmp_path, 'torch-export', IMAGES)
    assert [path.name for path in tmp_path.iterdir()] == ['kdml_v3_demo_slices-student_1.pt2']
    assert exported.agreement.images == 1
    times = exports.measure_latencies(exported, source)
    assert list(times) == ['torch-export', 'in PyTorch', 'teacher in PyTorch']
    assert all(time > 0 for time in times.values())


def test_teacher_is_timed_unless_its_head_has_several_outputs(source, monkeypatch):
    exported = exports.Exported({'checkpoint': None}, Agreement(1, 0.0, 0.0))
    monkeypatch.setattr(exports, 'latencies', lambda answers, *image: dict.fromkeys(answers, image))
    names = ['in PyTorch', 'teacher in PyTorch']
    assert exports.measure_latencies(exported, source) == dict.fromkeys(
        names, ((3, 64, 64), 'uint8')
    )
    monkeypatch.setattr(type(source.inspection.task), 'logits', lambda *args: None)
    assert list(exports.measure_latencies(exported, source)) == ['in PyTorch']
    teacher = dataclasses.replace(source, what='teacher')
    assert list(exports.measure_latencies(exported, teacher)) == ['in PyTorch']


def test_speed_ups_are_relative_to_the_teacher():
    assert exports.speed_ups({'onnx': 2.0, 'teacher in PyTorch': 5.0}) == dict(onnx=2.5)
    assert exports.speed_ups({'onnx': 2.0}) == {}


def test_int8_is_compared_with_the_float_file():
    assert exports.compare_int8({'onnx': 2.0}) == ''
    faster = exports.compare_int8({'onnx': 2.0, 'int8': 1.0, 'teacher in PyTorch': 9.0})
    assert '2.00 times as fast' in faster
    slower = exports.compare_int8({'onnx': 1.0, 'int8': 10.0, 'teacher in PyTorch': 18.3})
    assert slower.startswith('Warning: int8 is 0.10 times as fast')


@pytest.mark.parametrize('form', ['checkpoint', 'onnx'])
def test_different_export_is_not_kept(source, tmp_path, monkeypatch, form):
    def without_std(source):
        config, needs = plain_config(source)
        config.model.data_preprocessor.std = [1.0, 1.0, 1.0]
        return config, needs

    def wrong(path):
        return lambda images: (np.full((len(images), 2), 2, np.float32), np.zeros(len(images)))

    monkeypatch.setattr(export_checkpoint, 'plain_config', without_std)
    monkeypatch.setattr(exports, 'export_program', lambda network, source: None)
    monkeypatch.setattr(exports, 'write_onnx', lambda program, path, *args: path.write_bytes(b'x'))
    monkeypatch.setattr(exports, 'file_predictor', wrong)
    message = 'student_1 differs from PyTorch on 1 images.*No files were'
    with pytest.raises(ValueError, match=message), exports.new_folder(tmp_path / 'out') as folder:
        exports.export(source, folder, form, IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_invalid_formats_and_images_raise(source, tmp_path):
    with pytest.raises(ValueError, match="format: .*checkpoint, onnx, .* got 'tf'"):
        exports.export(source, tmp_path, 'tf', IMAGES)
    with pytest.raises(ValueError, match='int8: expected the format onnx, got torch-export'):
        exports.export(source, tmp_path, 'torch-export', IMAGES, IMAGES)
    with pytest.raises(ValueError, match='expected 64x64, got 64x96'):
        exports.export(source, tmp_path, 'onnx', [np.zeros((3, 64, 96), np.uint8)])
    ensemble = dataclasses.replace(source, what='ensemble')
    with pytest.raises(ValueError, match='Ensembles are not supported'):
        exports.export(ensemble, tmp_path, 'checkpoint', IMAGES)
    assert list(tmp_path.iterdir()) == []


def test_new_folder_is_filled_at_once_and_replaced_only_with_force(tmp_path):
    out = tmp_path / 'a' / 'out'
    with exports.new_folder(out) as folder:
        (folder / 'x.json').write_text(json.dumps(1))
        assert not out.exists()
    assert (out / 'x.json').read_text() == '1'
    for path, force in ((out, False), (out / 'x.json', True)):
        with (
            pytest.raises(FileExistsError, match=f'{path.name} already exists: expected a new or'),
            exports.new_folder(path, force),
        ):
            pass
    (out / 'mine').write_text('kept')
    with exports.new_folder(out, force=True) as folder:
        (folder / 'x.json').write_text('2')
    assert (out / 'x.json').read_text() == '2'
    assert (out / 'mine').read_text() == 'kept'
    assert [path.name for path in out.parent.iterdir()] == ['out']
