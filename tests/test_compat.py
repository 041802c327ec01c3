import importlib.util
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import mmengine.logging
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.fileio import load
from yapf.yapflib import yapf_api

import mmkdml  # noqa: F401
from mmkdml import compat


def test_yaml_holds_data_alone(tmp_path):
    made, path = tmp_path / 'made', tmp_path / 'x.yaml'
    path.write_text('a: !!python/tuple [1, [2.5, x]]\nb: {c: null}\n')
    assert load(path) == dict(a=(1, [2.5, 'x']), b=dict(c=None))
    for tag, value in (
        ('object/apply:os.mkdir', f'[{made}]'),
        ('object/new:os.mkdir', f'[{made}]'),
        ('name:os.mkdir', ''),
        ('module:os', ''),
    ):
        path.write_text(f'a: !!python/{tag} {value}\n')
        with pytest.raises(yaml.YAMLError, match=f'could not determine a constructor.*{tag}'):
            load(path)
        if value:
            with path.open() as file:
                yaml.load(file, yaml.CLoader)
            made.rmdir()  # it was made, by what mmengine used
    assert not made.exists()


def test_a_config_is_laid_out_once(monkeypatch):
    plain = yapf_api.FormatCode.__wrapped__
    texts = []
    monkeypatch.setattr(
        yapf_api,
        'FormatCode',
        lambda text, **settings: texts.append(text) or plain(text, **settings),
    )
    compat.lay_out_configs_once()
    first, *others = (Config(dict(number=number, names=['a', 'b'])) for number in range(5))
    expected = first.pretty_text
    assert expected == plain(texts[0], style_config='pep8')[0]
    assert first.pretty_text == expected
    assert len(texts) == 1
    first.number = 9
    assert first.pretty_text == expected.replace('0', '9')
    assert len(texts) == 2
    for other in others:  # only so many are kept
        assert str(other.number) in other.pretty_text
    assert first.pretty_text == expected.replace('0', '9')
    assert len(texts) == 7
    # Another style is another text.
    assert yapf_api.FormatCode('a=1', style_config='pep8')[0] == 'a = 1\n'
    style = '{spaces_around_default_or_named_assign: true, based_on_style: pep8}'
    call = 'f(a=1)\n'
    assert yapf_api.FormatCode(call, style_config='pep8')[0] == call
    assert yapf_api.FormatCode(call, style_config=style)[0] == 'f(a = 1)\n'


BOMBS = {
    'lists': ('[x, x]', '[*{0}, *{0}]'),
    'dicts': ('{k: x, l: x}', '{k: *{0}, l: *{0}}'),
    'merged': ('{k: x}', '{<<: [*{0}, *{0}]}'),
    'keys': ('[x, x]', '{? [*{0}, *{0}] : 1}'),
}


@pytest.mark.parametrize('kind', BOMBS)
def test_yaml_is_no_larger_than_it_looks(tmp_path, kind):
    first, more = BOMBS[kind]
    path = tmp_path / 'x.yaml'

    def write(levels):
        lines = [f'a0: &a0 {first}']
        lines += [f'a{n}: &a{n} {more.replace("{0}", f"a{n - 1}")}' for n in range(1, levels)]
        path.write_text('\n'.join(lines))

    write(40)
    with pytest.raises(yaml.YAMLError, match='its aliases stand for more than 1,000,000 values'):
        load(path)
    if kind != 'keys':  # a list is no key of a dict
        write(6)
        assert len(load(path)) == 6


def test_yaml_that_holds_itself_is_left_to_its_reader(tmp_path):
    (tmp_path / 'x.yaml').write_text('a: &a [1, *a]')
    found = load(tmp_path / 'x.yaml')['a']
    assert found[1] is found


@pytest.fixture
def stack(monkeypatch):
    """A torchvision whose imports end as told, and a torch that notes what is declared."""
    noted = SimpleNamespace(imports=[], declared=[], outcomes=[])

    def import_module(name):
        noted.imports.append(name)
        outcome = noted.outcomes.pop(0)
        if outcome is not None:
            raise outcome

    class Library:
        def __init__(self, name, kind):
            noted.declared.append((name, kind))

        def define(self, schema):
            noted.declared.append(schema)

    monkeypatch.setattr(compat, 'importlib', SimpleNamespace(import_module=import_module))
    monkeypatch.setattr(compat, 'torch', SimpleNamespace(library=SimpleNamespace(Library=Library)))
    monkeypatch.setattr(compat, '_declared', None)
    return noted


def test_a_torchvision_that_works_is_left_alone(stack):
    stack.outcomes = [None]
    compat.import_torchvision()
    assert stack.imports == ['torchvision']
    assert stack.declared == []
    assert compat._declared is None


def test_the_cure_after_that_very_error(stack):
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
def test_other_errors_pass_through(stack, error):
    stack.outcomes = [error]
    with pytest.raises(type(error)) as raised:
        compat.import_torchvision()
    assert raised.value is error
    assert stack.imports == ['torchvision']
    assert stack.declared == []


def test_a_cure_that_does_not_help_says_so(stack):
    stack.outcomes = [
        RuntimeError('operator torchvision::nms does not exist'),
        RuntimeError('operator torchvision::nms does not exist'),
    ]
    with pytest.raises(RuntimeError, match='torchvision::nms does not exist'):
        compat.import_torchvision()
    assert len(stack.imports) == 2


def test_torchvision_may_be_missing(stack):
    stack.outcomes = [ModuleNotFoundError("No module named 'torchvision'")]
    compat.import_torchvision()
    assert stack.declared == []


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """Makes a distribution of this name seem the only one, its operators not yet imported."""

    def install(name):
        folder = tmp_path / f'{name.replace("-", "_")}-2.1.0.dist-info'
        folder.mkdir()
        (folder / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 2.1.0\n')
        monkeypatch.setattr(sys, 'path', [str(tmp_path)])

    monkeypatch.setitem(sys.modules, 'mmcv._ext', None)  # what it was comes back
    del sys.modules['mmcv._ext']
    return install


def test_operators_that_mmcv_lite_lacks_can_be_named_and_not_called(installed):
    installed('mmcv-lite')
    compat.stand_in_for_mmcv_operators()
    operators = sys.modules['mmcv._ext']
    assert hasattr(operators, 'sigmoid_focal_loss_forward')
    with pytest.raises(RuntimeError, match='mmcv-lite has no operator nms; it is compiled into mm'):
        operators.nms(1, iou=2)
    assert not hasattr(operators, '__wrapped__')
    assert importlib.util.find_spec('mmcv._ext').loader is None  # so mmengine knows it from mmcv's


def test_other_mmcvs_are_left_alone(installed):
    installed('onedl-mmcv')
    compat.stand_in_for_mmcv_operators()
    assert 'mmcv._ext' not in sys.modules


def test_compiled_operators_stay(installed):
    installed('mmcv-lite')
    sys.modules['mmcv._ext'] = theirs = object()
    compat.stand_in_for_mmcv_operators()
    assert sys.modules['mmcv._ext'] is theirs


def test_torchvision_works_after_mmkdml():
    torchvision = pytest.importorskip('torchvision')
    image = torch.arange(12.0).view(1, 3, 4)
    assert torch.equal(torchvision.transforms.functional.hflip(image), image.flip(-1))


@pytest.mark.skipif(compat._declared is None, reason='torchvision brings its own operators here')
def test_the_declared_operator_still_raises():
    from torchvision.ops import nms

    with pytest.raises(RuntimeError):
        nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.ones(1), 0.5)


@pytest.mark.skipif(
    importlib.util.find_spec('mmpretrain') is None or importlib.util.find_spec('mmseg') is None,
    reason='the frameworks are missing',
)
def test_importing_mmkdml_imports_no_framework():
    script = (
        'import sys, mmkdml, mmkdml.functional, mmkdml.registry\n'
        'print(sorted({"mmpretrain", "mmseg", "mmcv", "timm"} & set(sys.modules)))\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, check=True
    )
    assert done.stdout == '[]\n'


@pytest.fixture
def printed(monkeypatch):
    """What reaches mmengine's own ``print_log`` once imports are quiet."""
    messages = []
    monkeypatch.setenv('NO_ALBUMENTATIONS_UPDATE', 'as it was')
    monkeypatch.setattr(
        mmengine.logging, 'print_log', lambda *args, **kwargs: messages.append((args, kwargs))
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        compat.quiet_imports()
        yield messages


def test_one_known_warning_is_hidden_and_no_others(printed):
    warnings.warn('Fail to import ``MultiScaleDeformableAttention`` from mmcv', stacklevel=1)
    with pytest.raises(UserWarning, match='anything else'):
        warnings.warn('anything else', stacklevel=1)


def test_one_known_line_is_not_printed_and_others_are(printed):
    mmengine.logging.print_log('Could not import OneDL', logger='current', level=30)
    assert printed == []
    mmengine.logging.print_log('Could not import OneDL at all', 'current', level=30)
    assert printed == [(('Could not import OneDL at all', 'current'), dict(level=30))]


def test_albumentations_does_not_ask_for_a_newer_version_unless_told_to(printed, monkeypatch):
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == 'as it was'
    monkeypatch.delenv('NO_ALBUMENTATIONS_UPDATE')
    compat.quiet_imports()
    assert os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'
