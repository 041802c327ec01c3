import importlib.util
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

from mmkdml import compat


@pytest.fixture
def stack(monkeypatch):
    """Fake torchvision with preset outcomes of its imports, and fake torch that records calls."""
    calls = SimpleNamespace(imports=[], declared=[], outcomes=[])

    def import_module(name):
        calls.imports.append(name)
        outcome = calls.outcomes.pop(0)
        if outcome is not None:
            raise outcome

    class Library:
        def __init__(self, name, kind):
            calls.declared.append((name, kind))

        def define(self, schema):
            calls.declared.append(schema)

    monkeypatch.setattr(compat, 'importlib', SimpleNamespace(import_module=import_module))
    monkeypatch.setattr(compat, 'torch', SimpleNamespace(library=SimpleNamespace(Library=Library)))
    monkeypatch.setattr(compat, '_declared', None)
    return calls


def test_working_torchvision_needs_no_declarations(stack):
    stack.outcomes = [None]
    compat.import_torchvision()
    assert stack.imports == ['torchvision']
    assert stack.declared == []
    assert compat._declared is None


def test_missing_operators_are_declared(stack):
    stack.outcomes = [RuntimeError('operator torchvision::nms does not exist'), None]
    compat.import_torchvision()
    assert stack.imports == ['torchvision', 'torchvision']
    assert stack.declared == [
        ('torchvision', 'DEF'),
        'nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
        'qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor',
    ]
    assert compat._declared is not None  # kept alive


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('operator torchvision::roi_align does not exist'),
        RuntimeError('CUDA error'),
        ImportError('libcudart.so: cannot open shared object file'),
    ],
)
def test_other_import_errors_are_raised(stack, error):
    stack.outcomes = [error]
    with pytest.raises(type(error)) as raised:
        compat.import_torchvision()
    assert raised.value is error
    assert stack.imports == ['torchvision']
    assert stack.declared == []


def test_error_of_second_import_is_raised(stack):
    stack.outcomes = [
        RuntimeError('operator torchvision::nms does not exist'),
        RuntimeError('operator torchvision::nms does not exist'),
    ]
    with pytest.raises(RuntimeError, match='torchvision::nms does not exist'):
        compat.import_torchvision()
    assert len(stack.imports) == 2


def test_missing_torchvision_is_ignored(stack):
    stack.outcomes = [ModuleNotFoundError("No module named 'torchvision'")]
    compat.import_torchvision()
    assert stack.declared == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Make a distribution seem to be the only one installed, without imported operators."""

    def install(name):
        folder = tmp_path / f'{name.replace("-", "_")}-2.1.0.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n')
        monkeypatch.setattr(sys, 'path', [str(tmp_path)])

    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # restored after the test
    del sys.modules['mmcv._ext']
    return install


def test_missing_mmcv_operators_raise_when_called(installed):
    installed('mmcv-lite')
    compat.replace_missing_mmcv_operators()
    operators = sys.modules['mmcv._ext']
    assert hasattr(operators, 'sigmoid_focal_loss_forward')
    with pytest.raises(RuntimeError, match='no operator nms'):
        operators.nms(1, iou=2)
    assert not hasattr(operators, '__wrapped__')
    assert importlib.util.find_spec('mmcv._ext').loader is None  # as mmengine expects


def test_operators_of_other_mmcv_distributions_are_not_replaced(installed):
    installed('onedl-mmcv')
    compat.replace_missing_mmcv_operators()
    assert 'mmcv._ext' not in sys.modules


def test_imported_operators_are_not_replaced(installed):
    installed('mmcv-lite')
    sys.modules['mmcv._ext'] = imported = object()
    compat.replace_missing_mmcv_operators()
    assert sys.modules['mmcv._ext'] is imported


def test_torchvision_can_be_imported():
    torchvision = pytest.importorskip('torchvision')
    image = torch.arange(12.0).view(1, 3, 4)
    assert torch.equal(torchvision.transforms.functional.hflip(image), image.flip(-1))


@pytest.mark.skipif(compat._declared is None, reason='torchvision has its own operators here')
def test_calling_declared_operator_raises():
    from torchvision.ops import nms

    with pytest.raises(RuntimeError):
        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)


def test_import_is_silent_and_offline():
    """Frameworks print messages about optional packages, and albumentations queries PyPI."""
    script = 'import os, mmkdml.models; print(os.environ["NO_ALBUMENTATIONS_UPDATE"])'
    environment = {
        key: value for key, value in os.environ.items() if key != 'NO_ALBUMENTATIONS_UPDATE'
    }
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True, env=environment
    )
    assert (done.stdout, done.stderr) == ('1\n', '')


def test_only_one_warning_is_hidden(monkeypatch):
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', 'set by user')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        compat.import_frameworks()
        warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from mmcv', stacklevel=1)
        with pytest.raises(UserWarning, match='another one'):
            warnings.warn('another one', stacklevel=1)
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == 'set by user'
