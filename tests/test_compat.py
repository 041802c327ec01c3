import importlib.util
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
import torch

from mmkdml import compat
from mmkdml.functional.nms import non_maximum_suppression
from mmkdml.operators import MissingModule


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

        def impl(self, name, function, key):
            calls.declared.append((name, function, key))

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
        ('nms', non_maximum_suppression, 'CompositeExplicitAutograd'),
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
def operators(monkeypatch):
    """Return a function that makes mmcv's operators seem missing, installed or imported."""

    def install(spec=None, imported=None):
        monkeypatch.setitem(sys.modules, 'mmcv._ext', imported)  # restored after the test
        if imported is None:
            del sys.modules['mmcv._ext']
        finder = SimpleNamespace(find_spec=lambda name, *_: name == 'mmcv._ext' and spec or None)
        monkeypatch.setattr(sys, 'meta_path', [finder, *sys.meta_path])

    return install


def test_missing_mmcv_operators_are_replaced(operators):
    operators()
    compat.replace_missing_mmcv_operators()
    assert isinstance(sys.modules['mmcv._ext'], MissingModule)
    assert importlib.util.find_spec('mmcv._ext').loader is None  # as mmengine expects


def test_installed_mmcv_operators_are_not_replaced(operators):
    operators(spec=ModuleSpec('mmcv._ext', loader=None))
    compat.replace_missing_mmcv_operators()
    assert 'mmcv._ext' not in sys.modules


def test_imported_mmcv_operators_are_not_replaced(operators):
    operators(imported=(imported := object()))
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


def python(script, **options):
    """Run a script in a process of its own and return what it prints, on stderr too."""
    done = subprocess.run(
        [sys.executable, '-c', script],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        **options,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


IMPORT_ALL = 'import os, sys, mmkdml.models, mmkdml.datasets, mmkdml.evaluation'


def test_setting_of_the_user_is_kept(monkeypatch):
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', 'set by user')
    compat.import_frameworks()
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == 'set by user'


HEADS = """
import mmseg.models
for head in (mmseg.models.MaskFormerHead, mmseg.models.Mask2FormerHead):
    assert issubclass(head, getattr(mmdet.models, head.__name__))
    try:
        head()
    except TypeError as error:  # instead of ImportError: mmdet is not installed
        assert 'num_classes' in str(error) or 'in_channels' in str(error), error
from mmdet.registry import MODELS
assert MODELS.get('ResLayerExtraNorm')
from mmdet.registry import TRANSFORMS
resize = dict(name='Resize', p=1, parameters=dict(size=dict(width=1, height=1)))
try:
    TRANSFORMS.build(dict(type='ImageAug', pipeline=[resize]))
except RuntimeError as error:
    assert 'imgaug is not installed' in str(error)
assert 'imgaug' not in sys.modules
"""


@pytest.mark.parametrize(
    'imports',
    [
        f'import mmkdml.compat, mmdet.evaluation, mmdet.models; {IMPORT_ALL}',
        f'import mmdet; {IMPORT_ALL}; import mmdet.models, mmdet.apis',
    ],
)
def test_mmdet_completes_the_other_frameworks_silently(imports):
    """In any order of imports; the warnings of Python that its code raises are other ones."""
    pytest.importorskip('mmdet')
    assert python(imports + HEADS) == ''


def test_import_is_silent_and_offline_and_leaves_parts_out_until_they_are_used():
    """Frameworks print messages about optional packages, and albumentations queries PyPI.

    Results of parts that are imported later are compared with those of the original modules.
    """
    environment = {
        key: value for key, value in os.environ.items() if key != 'NO_ALBUMENTATIONS_UPDATE'
    }
    script = f"""
{IMPORT_ALL}
print(os.environ['NO_ALBUMENTATIONS_UPDATE'], 'mmdet' in sys.modules)
print('imported', file=sys.stderr)
import numpy as np
import mmkdml.apis.runs
import mmkdml.apis.runner
from mmengine.visualization import Visualizer
from mmseg.visualization import SegLocalVisualizer

class Plain(Visualizer):
    pass

visualizers = [kind(name=kind.__name__) for kind in (SegLocalVisualizer, Plain)]
parts = ('huggingface_hub.hf_api', 'matplotlib.figure', 'pandas.core', 'scipy.optimize',
         'scipy.special._ufuncs', 'timm.models', 'torchvision.models.resnet', 'jinja2', 'ftfy',
         'scipy.ndimage._filters')
print({{name for name in parts if name in sys.modules}})

image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
for one in visualizers:
    one.set_image(image)
    assert one.dpi == one.fig_save.get_dpi() > 0
    assert np.array_equal(one.get_image(), image)
    assert not hasattr(one, 'nonsense')
from albumentations.core import hub_mixin
from mmseg.models.assigners import hungarian_assigner
assert bool(hub_mixin.is_huggingface_hub_available)
assert hub_mixin.HfApi.__name__ == 'HfApi'
costs = np.array([[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]])
rows, columns = hungarian_assigner.linear_sum_assignment(costs)
assert (list(rows), list(columns)) == ([0, 1, 2], [1, 0, 2])  # 1 + 2 + 2, the smallest sum
import scipy.optimize
assert scipy.optimize.__file__ and callable(scipy.optimize.minimize)
import mmpretrain.models.backbones.timm_backbone, mmseg.models.backbones.timm_backbone as mmseg_timm
assert 'resnet18' in mmseg_timm.timm.list_models()
from mmseg.datasets.transforms import transforms
from mmseg.models.losses import huasdorff_distance_loss
spread = transforms.gaussian_filter(np.eye(3), 1)
assert spread[0, 2] == spread[2, 0] > 0
assert np.array_equal(huasdorff_distance_loss.distance(np.array([0, 1, 1, 1])), [0, 1, 2, 3])
assert scipy.ndimage.__file__
import mmseg.utils
tokens = mmseg.utils.tokenize('a photo of a cat').flatten().tolist()
assert tokens[:7] == [49406, 320, 1125, 539, 320, 2368, 49407]  # of CLIP
from mmseg.models.text_encoder.clip_text_encoder import tokenizer
assert tokenizer is sys.modules['mmseg.utils.tokenizer']
import torchvision
assert torchvision.models.resnet18.__name__ == 'resnet18'
"""
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == '1 False\nset()\n'
    assert done.stderr.startswith('imported\n')
