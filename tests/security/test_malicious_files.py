"""Attacks by pickles: each one works with a plain loader, and with none of this package's."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

# Makes torchvision importable; must come first.

# isort: split
import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.utils.dl_utils import load_url
from PIL import Image
from safetensors.torch import save_file

from mmkdml.apis import load_config, load_trained, make_runner, newest_checkpoint, publish
from mmkdml.apis.export.source import load_source
from mmkdml.apis.prediction.predictor import load
from mmkdml.checkpoint_io import guard_checkpoints
from mmkdml.models import PretrainedTIMMBackbone
from mmkdml.models.checkpoints import load_checkpoint_file, load_network
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
REFUSED = 'is not a valid checkpoint'
# Of torch.load and of torch.hub, to which the last one belongs.
PLAIN = """
import sys
import mmkdml
import torch
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import conftest
files = conftest.corpus(Path(sys.argv[2]))
ours, theirs = sys.argv[3:]
for name, path in sorted(files.items(), key=lambda item: item[0] == theirs):
    try:
        if name == theirs:
            from mmengine.runner import checkpoint
            with torch.serialization.safe_globals(checkpoint.get_torch_safe_globals()):
                torch.load(path, weights_only=True)
        elif name == ours:
            torch.hub.load_state_dict_from_url(path.as_uri(), sys.argv[2], weights_only=False)
        else:
            torch.load(path, weights_only=False)
    except Exception:
        pass
"""


class Linear(BaseModule):
    def __init__(self, checkpoint):
        super().__init__(init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
        self.linear = torch.nn.Linear(2, 1)


@pytest.fixture(autouse=True)
def _unguarded(monkeypatch):
    """Remove the guards that earlier tests installed, and restore them afterwards."""
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '0')
    monkeypatch.setattr(CheckpointLoader, '_schemes', CheckpointLoader._schemes)
    monkeypatch.setattr(mmengine_checkpoint, 'get_torch_safe_globals', lambda: [getattr])
    CheckpointLoader.register_scheme('', mmengine_checkpoint.load_from_local, force=True)


@pytest.fixture
def started(monkeypatch):
    """Stop make_runner where the first network would be built."""

    def refuse(config):
        raise AssertionError('a runner was built')

    monkeypatch.setattr(Runner, 'from_cfg', refuse)


def test_corpus_executes_code_in_a_plain_loader(tmp_path):
    folder = tmp_path / 'files'
    subprocess.run(
        [sys.executable, '-c', PLAIN, Path(__file__).parent, folder, 'zip_in_zip']
        + ['mmengines_getattr'],
        check=True,
        capture_output=True,
        cwd=ROOT,
    )
    files = {path.stem for path in folder.glob('*.pth')} - {'inner'}
    assert len(files) >= 35
    assert {path.stem for path in folder.glob('*.canary')} == files


def through_mmengine(path):
    guard_checkpoints()
    CheckpointLoader.load_checkpoint(str(path), map_location='cpu', logger=None)


def pretrained(path):
    guard_checkpoints()
    Linear(path).init_weights()


def from_home(path):
    guard_checkpoints()
    os.environ['HOME'] = str(path.parent)
    Linear(f'~/{path.name}').init_weights()


def downloaded(path):
    guard_checkpoints()
    try:
        load_url(path.as_uri(), str(path.parent / 'downloads'), progress=False)
    except Exception as error:  # torch's own words
        raise ValueError(f'{REFUSED}: {error}') from error


def timm_file(path):
    guard_checkpoints()
    overlay = dict(pretrained_cfg_overlay=dict(file=str(path)))
    try:
        PretrainedTIMMBackbone('test_resnet', pretrained=True, **overlay).init_weights()
    except Exception as error:  # torch's own words for some
        raise ValueError(f'{REFUSED}: {error}') from error


def started_from(path):
    make_runner(Config(dict(load_from=str(path))))


def resumed(path):
    make_runner(Config(dict(resume=True, load_from=str(path), work_dir=str(path.parent))))


ENTRIES = [
    load_checkpoint_file,
    lambda path: load_network(torch.nn.Linear(2, 1), path, 'teacher'),
    lambda path: load_trained(Config(dict(model=dict())), path),
    lambda path: load(Config(dict(model=dict())), path),
    started_from,
    resumed,
    through_mmengine,
    pretrained,
    from_home,
    downloaded,
    timm_file,
]
NAMES = ['file', 'member', 'trained', 'predict', 'load_from', 'resume', 'mmengine', 'init_cfg']


@pytest.mark.parametrize('entry', ENTRIES, ids=[*NAMES, 'home', 'download', 'timm'])
def test_no_file_executes_code(malicious, entry, started, monkeypatch):
    monkeypatch.setenv('HOME', os.environ['HOME'])
    for name, path in malicious.items():
        with pytest.raises(ValueError, match=REFUSED):
            entry(path)
        assert not list(path.parent.glob('*.canary')), name


def test_newest_checkpoint_skips_malicious_files(malicious, tmp_path, capsys):
    for number, path in enumerate(malicious.values()):
        (tmp_path / f'epoch_{number}.pth').write_bytes(path.read_bytes())
    assert newest_checkpoint(tmp_path) is None
    assert not list(next(iter(malicious.values())).parent.glob('*.canary'))


@pytest.fixture(scope='module')
def teacher_config():
    """Return a classroom config without the checkpoint of its frozen teacher."""
    return load_config(CONFIG, {'model.mode': 'kd_off', 'model.weights.gamma': None})


@pytest.mark.parametrize('route', ['reduce', 'mmengines_getattr', 'legacy_content', 'torchscript'])
def test_loading_by_config_executes_no_code(malicious, route, teacher_config, tmp_path):
    path = malicious[route]
    config = Config(teacher_config.to_dict(), filename=str(CONFIG))
    with pytest.raises(ValueError, match=REFUSED):
        publish(config, path, tmp_path)
    with pytest.raises(ValueError, match=REFUSED):
        load_source(config, path, 'student_1')
    config.model.teacher_checkpoint = str(path)
    with pytest.raises(ValueError, match=REFUSED):
        MODELS.build(config.model)
    assert not path.with_suffix('.canary').exists()


@pytest.mark.parametrize(
    ('tool', 'words'),
    [
        ('train', ('CONFIG', '--resume', 'FILE', '--work-dir', 'RUN')),
        ('train', ('CONFIG', '--cfg-options', 'load_from=FILE')),
        ('test', ('CONFIG', 'FILE')),
        ('publish', ('CONFIG', 'FILE', '--out', 'OUT')),
        ('export', ('CONFIG', 'FILE', '--images', 'IMAGES', '--out', 'OUT')),
        ('predict', ('CONFIG', 'FILE', 'IMAGES', '--out', 'OUT')),
        ('analysis/cka', ('RUN', '--out', 'OUT')),
        ('analysis/panels', ('CONFIG', 'FILE', '--out', 'OUT')),
    ],
)
def test_tools_end_with_one_line(malicious, tmp_path, monkeypatch, tool, words):
    file = malicious['mmengines_getattr']
    run = tmp_path / 'run'
    run.mkdir()
    (run / 'last_checkpoint').write_text(str(file))
    load_config(CONFIG).dump(run / 'config.py')
    images = tmp_path / 'images'
    images.mkdir()
    Image.new('RGB', (64, 64)).save(images / 'one.png')
    known = dict(CONFIG=CONFIG, FILE=file, RUN=run, IMAGES=images, OUT=tmp_path / 'out')
    words = [re.sub('|'.join(known), lambda m: str(known[m[0]]), word) for word in words]
    path = ROOT / 'tools' / f'{tool}.py'
    monkeypatch.setattr(sys, 'argv', [str(path), *words])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=rf'^{path.name}: error: .*{REFUSED}') as stopped:
        runpy.run_path(str(path), run_name='__main__')
    assert '\n' not in stopped.value.code
    assert not file.with_suffix('.canary').exists()
    assert not (tmp_path / 'out').exists()


def test_published_config_names_the_loaded_file(malicious):
    """The metadata of safetensors is JSON and is not executed."""
    path = malicious['reduce'].parent / 'x.safetensors'
    classes = json.dumps(['__import__("os").mkdir("x")'])
    save_file({'weight': torch.zeros(1)}, path, {'classes': classes, 'config': 'raise SystemExit'})
    content = load_checkpoint_file(path)
    assert content['meta'] == dict(dataset_meta=dict(classes=json.loads(classes)))
