import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml.apis import find_runs, load_trained
from mmkdml.apis.trained import load_with_meta, run_files, split_run
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture(scope='module')
def config():
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    config.model.input_size = (32, 32)
    return config


@pytest.fixture(scope='module')
def run(config, tmp_path_factory):
    """Write the folder of a run with random weights."""
    folder = tmp_path_factory.mktemp('run')
    torch.save(
        dict(state_dict=MODELS.build(config.model).state_dict()), folder / 'best_x_epoch_1.pth'
    )
    config.dump(folder / 'demo.py')
    return folder


def test_find_runs_by_folder_and_by_config_and_checkpoint(run):
    best = run / 'best_x_epoch_1.pth'
    found = find_runs([str(run), 'other.py', str(best), 'third.py', str(run)])
    assert found == [(run / 'demo.py', best), (Path('other.py'), best), (Path('third.py'), best)]
    assert find_runs(iter([str(run), str(run)])) == [(run / 'demo.py', best)] * 2


def test_split_run_returns_the_remaining_arguments(run, tmp_path):
    best, other = run / 'best_x_epoch_1.pth', tmp_path / 'other.pth'
    other.write_bytes(b'')
    for words, expected in (
        ([run, 'a.png', 'b.py'], (run / 'demo.py', best, ['a.png', 'b.py'])),
        ([run], (run / 'demo.py', best, [])),
        ([run, other, 'a.png'], (run / 'demo.py', other, ['a.png'])),
        (['x.py', run, 'a.png'], (Path('x.py'), best, ['a.png'])),
        (['x.py', other], (Path('x.py'), other, [])),
    ):
        words = [str(word) for word in words]
        assert split_run(words) == expected
        assert len(words) <= 3  # not changed
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at a.png'):
        split_run(['x.py', 'a.png', 'b.png'])


def test_the_only_checkpoint_of_a_folder_is_found(tmp_path):
    """Folders of published models have no best checkpoint."""
    (tmp_path / 'mine.py').write_text('')
    only = tmp_path / 'mine-students.pth'
    only.write_bytes(b'')
    assert run_files(tmp_path) == (tmp_path / 'mine.py', only)
    (tmp_path / 'epoch_2.pth').write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at'):
        run_files(tmp_path)
    (tmp_path / 'best_x.pth').write_bytes(b'')
    assert run_files(tmp_path)[1] == tmp_path / 'best_x.pth'


def test_invalid_runs_raise(tmp_path):
    best, config = tmp_path / 'best_a.pth', tmp_path / 'mine.py'
    best.write_bytes(b'')
    with pytest.raises(FileNotFoundError, match='no folder .*nowhere: expected that of a run, or'):
        run_files(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match=r'expected one config \(\*.py\) in the folder .*got none'):
        run_files(tmp_path)
    with pytest.raises(ValueError, match=r'a\.py: a config requires a checkpoint'):
        find_runs(['a.py'])
    config.write_text('')
    assert run_files(tmp_path) == run_files(config, tmp_path) == (config, best)
    (tmp_path / 'other.py').write_text('')
    with pytest.raises(ValueError, match=r'got mine.py, other.py. Pass a config and then'):
        run_files(tmp_path)
    best.unlink()
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at'):
        run_files(config, tmp_path)


def test_weights_equal_those_of_the_file(config, run):
    before = copy.deepcopy(config.model.to_dict())
    model = load_trained(config, run)
    saved = torch.load(run / 'best_x_epoch_1.pth', weights_only=True)['state_dict']
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert config.model.to_dict() == before


def test_weights_of_another_model_raise(config, run, tmp_path):
    saved = torch.load(run / 'best_x_epoch_1.pth', weights_only=True)['state_dict']
    saved.pop('members.teacher.decode_head.conv_seg.bias')
    torch.save(saved, tmp_path / 'less.pth')
    with pytest.raises(
        ValueError, match=r'less.pth does not fit the model .*\(missing: .*seg.bias\)$'
    ):
        load_trained(config, tmp_path / 'less.pth')
    torch.save(dict(state_dict=3), tmp_path / 'three.pth')
    for changes in ({}, dict(model=config.model.students[0])):
        other = Config({**config.to_dict(), **changes})
        with pytest.raises(ValueError, match='three.pth contains no weights: .* got int$'):
            load_trained(other, tmp_path / 'three.pth')


@pytest.mark.parametrize('meta', [3, dict(dataset_meta=None)])
def test_metainfo_of_a_checkpoint(config, run, tmp_path, meta):
    saved = torch.load(run / 'best_x_epoch_1.pth', weights_only=True)['state_dict']
    torch.save(dict(state_dict=saved, meta=meta), tmp_path / 'x.pth')
    assert load_with_meta(config, tmp_path / 'x.pth')[1] == {}
    known = dict(classes=('a', 'b'))
    torch.save(dict(state_dict=saved, meta=dict(dataset_meta=known)), tmp_path / 'x.pth')
    assert load_with_meta(config, tmp_path / 'x.pth')[1] == known
