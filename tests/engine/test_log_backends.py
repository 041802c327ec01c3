"""Values in TensorBoard, which is read back, and calls of wandb and MLflow."""

import json
import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub
from mmengine.visualization import Visualizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mmkdml.engine.log_backends import LOGS, MLflowLog, TensorboardLog, WandbLog, grouped_names

TRAIN = {
    'lr': 0.1, 'loss': 1.5, 'time': 0.2, 'student_1.loss_from_teacher.features': 0.25,
    'student_1.decode.loss_dice': math.nan, 'epoch': 1,
}  # fmt: skip
VAL = {
    'student_1/foreground/IoU': 51.0, 'student_1/fidelity/IoU': 52.0, 'model/accuracy/top1': 53.0,
    'score': 54.0, 'time': 0.2, 'table': [1],
}  # fmt: skip
FEATURES = 'student_1/loss_from_teacher/features'


@pytest.fixture
def save_dir(tmp_path):
    """Folder that mmengine passes to the backends of a run."""
    (tmp_path / 'identity.json').write_text(json.dumps(dict(id='abc')))
    (tmp_path / 'now').mkdir()
    return str(tmp_path / 'now' / 'vis_data')


def attempt(kind, save_dir, steps, validation=None):
    """Log training steps and a validation, as a visualizer does in one process."""
    backend = kind(save_dir=save_dir)
    backend.add_config(Config(dict(a=1)))
    hub = MessageHub.get_instance('log_backends')
    for step in steps:
        hub.update_info('iter', step - 1)
        backend.add_scalars({**TRAIN, 'loss': float(step), 'iter': step}, step=step)
    if validation is not None:
        backend.add_scalars(VAL, step=validation)
    backend.close()


def test_names_are_grouped():
    assert grouped_names({**TRAIN, 'iter': 3}) == pytest.approx(
        {
            'train/lr': 0.1, 'train/loss': 1.5, 'train/time': 0.2, FEATURES: 0.25,
            'student_1/decode/loss_dice': math.nan, 'train/epoch': 1,
        },
        nan_ok=True,
    )  # fmt: skip
    assert grouped_names(VAL) == {
        'val/student_1/IoU': 51, 'val/student_1/fidelity/IoU': 52, 'val/model/top1': 53,
        'val/score': 54, 'val/time': 0.2,
    }  # fmt: skip


def read_tensorboard(folder):
    events = EventAccumulator(str(folder))
    events.Reload()
    return events, lambda name: [(one.step, one.value) for one in events.Scalars(name)]


def test_tensorboard_continues_a_resumed_run(save_dir, tmp_path):
    attempt(TensorboardLog, save_dir, (4, 8, 12), validation=3)
    attempt(TensorboardLog, save_dir, (8, 12, 16), validation=4)  # resumed after step 4
    events, scalars = read_tensorboard(tmp_path / 'tensorboard')
    assert scalars('train/loss') == [(step, step) for step in (4, 8, 12, 16)]
    assert scalars(FEATURES)[0] == (4, 0.25)
    assert scalars('val/student_1/IoU') == [(16, 51)]
    assert events.Tags()['tensors'] == ['config/text_summary']
    assert len(list((tmp_path / 'tensorboard').iterdir())) == 2


def test_nothing_is_written_without_values(save_dir, tmp_path):
    for kind in (TensorboardLog, WandbLog, MLflowLog):
        attempt(kind, save_dir, ())
    assert {path.name for path in tmp_path.iterdir()} == {'identity.json', 'now'}


def test_visualizer_passes_the_folder_of_the_run(save_dir, tmp_path):
    kinds = [dict(type=f'mmkdml.engine.log_backends.{name}') for name in LOGS.values()]
    visualizer = Visualizer(vis_backends=kinds, save_dir=str(tmp_path / 'now'))
    assert [visualizer.get_backend(name).folder for name in LOGS.values()] == [tmp_path] * 3


class FakeWandb(ModuleType):
    """``wandb`` with the parameters that are used; see its documentation of ``init``."""

    def __init__(self):
        super().__init__('wandb')
        self.started, self.logged, self.axes, self.finished = [], [], [], 0

    def init(
        self, *, project=None, dir=None, id=None, name=None, config=None, mode=None, resume=None,
        settings=None,
    ):  # fmt: skip
        self.started.append(dict(project=project, dir=dir, id=id, mode=mode, resume=resume))
        run = SimpleNamespace(dir=dir, url='https://x')
        run.define_metric = lambda name, *, step_metric=None: self.axes.append((name, step_metric))
        run.log = lambda data, step=None, commit=None: self.logged.append((data, step))
        run.finish = lambda exit_code=None: setattr(self, 'finished', self.finished + 1)
        return run

    Settings = dict


@pytest.mark.parametrize(('key', 'mode'), [(None, 'offline'), ('secret', 'online')])
def test_wandb_is_offline_without_a_key(save_dir, tmp_path, monkeypatch, key, mode):
    for name in ('WANDB_API_KEY', 'WANDB_MODE', 'WANDB_PROJECT', 'WANDB_BASE_URL'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('NETRC', str(tmp_path / 'now' / 'netrc'))
    if key is not None:
        monkeypatch.setenv('WANDB_API_KEY', key)
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    for steps in ((4, 8), (8,)):
        attempt(WandbLog, save_dir, steps, validation=2)
    expected = dict(project='mmkdml', dir=str(tmp_path), id='abc', mode=mode, resume='allow')
    assert fake.started == [expected] * 2
    assert ('*', 'iter') in fake.axes
    assert [(data['iter'], step) for data, step in fake.logged] == [
        (step, None) for step in (4, 8, 8, 8, 8)
    ]
    assert fake.logged[0][0][FEATURES] == 0.25
    assert fake.finished == 2


def test_wandb_key_in_netrc(save_dir, tmp_path, monkeypatch):
    monkeypatch.delenv('WANDB_API_KEY', raising=False)
    monkeypatch.delenv('WANDB_MODE', raising=False)
    netrc = tmp_path / 'netrc'
    netrc.write_text('machine api.wandb.ai login user password secret\n')
    netrc.chmod(0o600)
    monkeypatch.setenv('NETRC', str(netrc))
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, 'wandb', fake)
    attempt(WandbLog, save_dir, (4,))
    assert fake.started[0]['mode'] == 'online'


class FakeClient:
    """``MlflowClient`` with one experiment, which all clients of the test share."""

    experiments, runs, logged, uris, status = {}, {}, [], [], []

    def __init__(self, tracking_uri=None, registry_uri=None):
        self.uris.append(tracking_uri)

    def get_experiment_by_name(self, name):
        return self.experiments.get(name)

    def create_experiment(self, name, artifact_location=None, tags=None):
        self.experiments[name] = SimpleNamespace(experiment_id='1')
        return '1'

    def search_runs(self, experiment_ids, filter_string='', max_results=1000):
        found = [run for tag, run in self.runs.items() if f"'{tag}'" in filter_string]
        assert filter_string.startswith('tags.`mmkdml.run` = ')
        return [SimpleNamespace(info=SimpleNamespace(run_id=run)) for run in found]

    def create_run(self, experiment_id, start_time=None, tags=None, run_name=None):
        self.runs[tags['mmkdml.run']] = 'r'
        return SimpleNamespace(info=SimpleNamespace(run_id='r'))

    def update_run(self, run_id, status=None, name=None):
        self.status.append(status)

    def log_text(self, run_id, text, artifact_file):
        self.logged.append((artifact_file, text))

    def get_metric_history(self, run_id, key):
        return [one for one in self.logged if getattr(one, 'key', None) == key]

    def log_batch(self, run_id, metrics=(), params=(), tags=()):
        self.logged.extend(metrics)

    def set_terminated(self, run_id, status=None, end_time=None):
        self.status.append(status)


@pytest.mark.usefixtures('formatted')
def test_mlflow_continues_a_resumed_run(save_dir, tmp_path, monkeypatch):
    class Metric:
        def __init__(self, key, value, timestamp, step):
            self.key, self.value, self.step = key, value, step

    fake = ModuleType('mlflow')
    fake.MlflowClient, fake.entities = FakeClient, SimpleNamespace(Metric=Metric)
    monkeypatch.setitem(sys.modules, 'mlflow', fake)
    monkeypatch.delenv('MLFLOW_TRACKING_URI', raising=False)
    monkeypatch.delenv('MLFLOW_EXPERIMENT_NAME', raising=False)
    attempt(MLflowLog, save_dir, (4, 8), validation=2)
    attempt(MLflowLog, save_dir, (8, 12), validation=3)
    assert FakeClient.uris == [f'sqlite:///{tmp_path}/mlflow/mlflow.db'] * 2
    assert FakeClient.runs == {'abc': 'r'}
    assert FakeClient.status == ['FINISHED', 'RUNNING', 'FINISHED']
    (config, *metrics) = FakeClient.logged
    assert config == ('config.py', 'a = 1\n')
    assert [one.step for one in metrics if one.key == 'train/loss'] == [4, 8, 12]
    assert [one.step for one in metrics if one.key == 'val/student_1/IoU'] == [8, 12]
    assert 'student_1/decode/loss_dice' not in {one.key for one in metrics}  # NaN
