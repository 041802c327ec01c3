import copy
import importlib.util

import pytest
from mmengine.config import Config
from yapf.yapflib import yapf_api

from mmkdml.apis.run.config import RunConfig, load_config


@pytest.mark.usefixtures('formatted')
def test_text_is_formatted_once_until_the_config_changes(monkeypatch, tmp_path):
    path = tmp_path / 'x.py'
    path.write_text("number = 0\nnested = dict(names=['a', 'b'])\n")
    config = Config.fromfile(path)
    expected = config.pretty_text
    formatted, format_code = [], yapf_api.FormatCode
    monkeypatch.setattr(
        yapf_api,
        'FormatCode',
        lambda text, **settings: formatted.append(text) or format_code(text, **settings),
    )
    run_config = RunConfig(config)
    assert run_config.pretty_text == expected
    for same in (copy.deepcopy(run_config), copy.copy(run_config)):
        assert same.pretty_text == same.dump() == expected
    run_config.dump(path)
    assert path.read_text() == expected
    assert len(formatted) == 1

    run_config.nested.names.append('c')
    assert run_config.pretty_text == expected.replace("'b'", "'b',\n    'c'")
    assert config.pretty_text == expected
    assert run_config.filename == str(path)
    assert run_config.to_dict() == dict(number=0, nested=dict(names=['a', 'b', 'c']))


@pytest.mark.parametrize(
    'text',
    [
        'from mmdet.models import ATSS\nmodel = dict(type=ATSS)\n',
        "model = dict(type='mmdet.ATSS')\n",
        "default_scope = 'mmdet'\n",
    ],
)
def test_detectors_without_mmdet_name_the_commands(tmp_path, monkeypatch, text):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *a: None if name == 'mmdet' else find(name, *a)
    )
    path = tmp_path / 'own.py'
    path.write_text(text)
    with pytest.raises(ValueError, match=r'own\.py.*mmdet is not installed.*--no-deps'):
        load_config(path)
    path.write_text('# not mmdet\nmodel = dict()\n')
    assert load_config(path).model == {}


def test_modules_in_a_config_are_named(tmp_path):
    path = tmp_path / 'own.py'
    path.write_text(
        'import copy\n'
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from mmkdml.configs.demo.kdml_v3_demo import model\n'
    )
    with pytest.raises(ValueError, match=r'own\.py.*del copy'):
        load_config(path)
    path.write_text(path.read_text() + 'del copy\n')
    assert load_config(path).model.mode == 'kdml'
