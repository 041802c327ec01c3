"""Weights that the tools evaluate after trainings with EMAHook and after stock trainings."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import DictAction
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.apis import load, load_config, load_weights, make_runner, publish
from mmkdml.apis.export.source import load_source
from mmkdml.experiments import RunSpec
from mmkdml.experiments.suites.execution.execute import execute
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result
from mmkdml.models.checkpoints import load_checkpoint_file

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
pytestmark = pytest.mark.slow
HEAD = (
    'from mmengine.config import read_base\n'
    'from mmengine.hooks import CheckpointHook, EMAHook\n'
    'from mmseg.evaluation import IoUMetric\n'
    'from mmkdml.evaluation import MemberMetrics\n'
    'with read_base():\n'
    '    from .kdml_v3_demo import *\n'
)
EMA = """
custom_hooks = [*custom_hooks, dict(type=EMAHook, momentum=0.5)]
val_evaluator = test_evaluator = dict(type=MemberMetrics, metric=dict(type=IoUMetric))
default_hooks['checkpoint'].update(save_best='ensemble/mIoU')
"""
STOCK = """
model = dict(small_teacher, data_preprocessor=data_preprocessor)
val_evaluator = test_evaluator = dict(type=IoUMetric)
default_hooks = dict(
    checkpoint=dict(type=CheckpointHook, interval=1, save_best='mIoU', rule='greater'),
    logger=default_hooks['logger'])
custom_hooks = []
"""


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    """Copy of the configs, with one that averages weights and one without hooks of mmkdml."""
    folder = tmp_path_factory.mktemp('copied')
    shutil.copytree(ROOT / 'configs', folder / 'configs')
    demo = folder / 'configs' / 'demo'
    (demo / 'averaged.py').write_text(HEAD + EMA)
    (demo / 'stock.py').write_text(HEAD + STOCK)
    return demo


@pytest.fixture(scope='module')
def options(short):
    pairs = (option.split('=', 1) for option in short)
    return {key: DictAction._parse_int_float_bool(value) for key, value in pairs}


@pytest.fixture(scope='module')
def runs(demo, options, tmp_path_factory):
    """Folder and test metrics of an uninterrupted run of a suite and of an interrupted one."""
    top = tmp_path_factory.mktemp('runs')
    spec = RunSpec('run', 0, str(demo / 'averaged.py'), options)
    uninterrupted, resumed = top / 'uninterrupted', top / 'resumed'
    execute(spec, uninterrupted, None, 'none')
    shutil.copytree(uninterrupted, resumed)
    for path in [*resumed.glob('best_*'), resumed / 'epoch_2.pth', resumed / RESULT]:
        path.unlink()
    execute(spec, resumed, None, 'none')
    return {
        folder.name: (folder, deserialize_result((folder / RESULT).read_bytes())[0])
        for folder in (uninterrupted, resumed)
    }


def average(folder):
    """Return the averaged weights in a checkpoint, which differ from the trained ones."""
    content = load_checkpoint_file(folder / 'epoch_2.pth')
    key = 'members.student_1.decode_head.conv_seg.weight'
    assert not torch.equal(content['state_dict'][key], content['ema_state_dict'][f'module.{key}'])
    return content['state_dict']


def equal(weights, expected):
    return weights.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in weights.items()
    )


class Spy(Hook):
    priority = 'LOWEST'

    def after_test_iter(self, runner, *args, **kwargs):
        self.seen = {key: one.clone() for key, one in runner.model.state_dict().items()}


def test_interruption_changes_neither_weights_nor_metrics(runs):
    uninterrupted, resumed = runs['uninterrupted'], runs['resumed']
    assert equal(average(uninterrupted[0]), average(resumed[0]))
    for name in ('last', 'best'):
        assert uninterrupted[1][name].metrics == resumed[1][name].metrics


@pytest.mark.parametrize('run', ['uninterrupted', 'resumed'])
def test_all_tools_evaluate_the_average(runs, run, demo, options, tool, short, tmp_path):
    folder, measured = runs[run]
    file, expected = folder / 'epoch_2.pth', average(folder)
    path = demo / 'averaged.py'
    tool('test', path, file, '--work-dir', tmp_path, '--out', tmp_path / 'out.json', options=short)
    tested = json.loads((tmp_path / 'out.json').read_text())
    suite = measured['last'].metrics
    assert tested
    assert tested == {key: value for key, value in suite.items() if key in tested}

    spy = Spy()
    runner = make_runner(load_config(path, {**options, 'experiment_name': run}, tmp_path))
    runner.register_hook(spy)
    load_weights(runner, file)
    runner.test()
    assert equal(spy.seen, expected)

    config = load_config(path, options)
    assert equal(load(path, file, 'cpu').model.state_dict(), expected)
    published = load_checkpoint_file(publish(config, file, tmp_path / 'published')[1])
    for member in ('student_1', 'student_2'):
        prefix = f'members.{member}.'
        published_member = {
            k: one for k, one in published['state_dict'].items() if k.startswith(prefix)
        }
        mine = {key: one for key, one in expected.items() if key.startswith(prefix)}
        assert equal(published_member, mine)
        exported = load_source(config, file, member).members[member].state_dict()
        assert equal({f'{prefix}{key}': one for key, one in exported.items()}, mine)


def test_numpy_scores_of_metrics_become_plain_numbers(runs):
    for folder, _ in runs.values():
        info = load_checkpoint_file(folder)['message_hub']['runtime_info']
        assert type(info['best_score']) is float
        assert info['best_rules'] == {'ensemble/mIoU': 'greater'}


def test_stock_teacher_with_numpy_score(demo, options, short, tool, tmp_path):
    """The teacher is trained by the runner and hooks of mmengine, its best score is np.float32."""
    folder, path = tmp_path / 'stock', demo / 'stock.py'
    Runner.from_cfg(load_config(path, {**options, 'experiment_name': 'stock'}, folder)).train()
    (best,) = folder.glob('best_mIoU_*.pth')
    score = load_checkpoint_file(best)['message_hub']['runtime_info']['best_score']
    assert str(type(score)) == "<class 'numpy.float32'>"
    weights = load_checkpoint_file(best)['state_dict']
    tool('test', path, folder, '--work-dir', tmp_path, '--out', tmp_path / 'x.json', options=short)
    assert json.loads((tmp_path / 'x.json').read_text())['mIoU'] >= 0
    assert equal(load(folder, device='cpu').model.state_dict(), weights)
    config = load_config(path, options)
    assert equal(load_source(config, folder, 'model').members['model'].state_dict(), weights)
    with pytest.raises(TypeError, match='expected a classroom, got EncoderDecoder'):
        publish(config, folder, tmp_path / 'published')
    off = {'model.mode': 'kd_off', 'model.weights': dict(gamma=None)}
    off |= {'model.teacher_checkpoint': str(folder), 'experiment_name': 'taught'}
    runner = make_runner(load_config(CONFIG, options | off, tmp_path / 'taught'))
    assert equal(runner.model.named_members()['teacher'].state_dict(), weights)


def test_random_teacher_raises_in_training_and_testing(short, tool, tmp_path, checkpoint):
    off = [*short, 'model.mode=kd_off', 'model.weights.gamma=None']
    message = r'teacher has no weights for backbone, decode_head: .* model\.teacher_checkpoint'
    with pytest.raises(SystemExit, match=message):
        tool('train', CONFIG, '--work-dir', tmp_path / 'run', options=off)
    assert not [*(tmp_path / 'run').glob('*.pth')]
    with pytest.raises(SystemExit, match=message):
        tool('test', CONFIG, checkpoint, '--work-dir', tmp_path / 'test', options=off)
    with pytest.raises(ValueError, match=message):
        load_off(checkpoint)
    tool('print_classroom', CONFIG, options=off[-2:], experiment=False)


def load_off(checkpoint):
    off = {'model.mode': 'kd_off', 'model.weights': dict(gamma=None)}
    return load(load_config(CONFIG, off), checkpoint, 'cpu')
