from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.registry import METRICS, MODELS
from optuna import TrialPruned
from torch import nn

from mmkdml.experiments.tuning.trial import (
    SavedScore,
    TrialHook,
    epoch_options,
    train_trial,
    trial_config,
)

ROOT = Path(__file__).parents[3]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'


class Trial:
    """Records reports, and prunes after some of them."""

    def __init__(self, patience=99):
        self.reports, self.patience = {}, patience

    def report(self, value, step):
        self.reports[step] = value

    def should_prune(self):
        return len(self.reports) >= self.patience


@MODELS.register_module()
class TuningTrialNet(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode):
        loss = self.layer(inputs.float()[:, None]).square().mean()
        return dict(loss=loss) if mode == 'loss' else [dict()]


@METRICS.register_module()
class TuningTrialMetric(BaseMetric):
    """Returns the values of a list, one after the other."""

    def __init__(self, values):
        super().__init__()
        self.values = iter(values)

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        return dict(score=next(self.values))


def small_config(tmp_path, values, **train_cfg):
    loader = dict(
        batch_size=2,
        num_workers=0,
        dataset=[[0.1], [0.2]],
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )
    return Config(
        dict(
            default_scope='mmengine',
            work_dir=str(tmp_path / 'trial_0'),
            experiment_name=f'{tmp_path.name}_{len(values)}',
            model=dict(type='TuningTrialNet'),
            train_dataloader=loader,
            val_dataloader=loader,
            train_cfg=dict(by_epoch=True, max_epochs=len(values), val_interval=1) | train_cfg,
            val_cfg=dict(),
            val_evaluator=dict(type='TuningTrialMetric', values=values),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        )
    )


@pytest.mark.parametrize(('direction', 'expected'), [('maximize', 7), ('minimize', 2)])
def test_score_is_the_best_validation(tmp_path, direction, expected):
    stale = tmp_path / 'trial_0' / 'best_of_another.pth'
    stale.parent.mkdir()
    stale.touch()
    trial = Trial()
    config = small_config(tmp_path, [3, 7, 2])
    assert train_trial(trial, config, 'score', direction) == expected
    assert trial.reports == {1: 3, 2: 7, 3: 2}
    assert not stale.exists()
    assert (tmp_path / 'trial_0' / 'epoch_3.pth').is_file()


def test_pruned_trial_stops_at_once(tmp_path):
    trial = Trial(patience=2)
    with pytest.raises(TrialPruned, match='score is 7 after epoch 2'):
        train_trial(trial, small_config(tmp_path, [3, 7, 2]), 'score', 'maximize')
    assert trial.reports == {1: 3, 2: 7}


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_metric_that_is_not_finite_raises(tmp_path, value):
    trial = Trial()
    with pytest.raises(ValueError, match=f'score is {value} after epoch 2'):
        train_trial(trial, small_config(tmp_path, [3, value, 2]), 'score', 'maximize')
    assert trial.reports == {1: 3}


def test_missing_metric_raises():
    hook, runner = TrialHook(Trial(), 'ensemble/IoU'), SimpleNamespace(epoch=1)
    with pytest.raises(ValueError, match=r'ensemble/F1, model/F1.* got ensemble/IoU'):
        hook.after_val_epoch(runner, {'ensemble/F1': 1.0, 'model/F1': 2.0})
    with pytest.raises(ValueError, match=r'\(none\), got ensemble/IoU'):
        hook.after_val_epoch(runner, None)


def test_run_without_validation_raises(tmp_path):
    config = small_config(tmp_path, [3, 7], val_begin=9)
    with pytest.raises(ValueError, match='val_begin: expected at most .*no validation'):
        train_trial(Trial(), config, 'score', 'maximize')


def test_config_of_a_trial_has_no_test_split(tmp_path):
    options = {'model.weights.alpha': (0.5, 0.6)}
    one = trial_config(CONFIG, options, tmp_path / 'trial_3')
    assert one.test_dataloader is one.test_evaluator is one.test_cfg is None
    assert one.model.weights == dict(alpha=(0.5, 0.6), beta=(0.3, 0.3), gamma=(0.3, 0.3))
    assert one.work_dir == str(tmp_path / 'trial_3')
    # Two trials in one process do not share a logger.
    two = trial_config(CONFIG, options, tmp_path / 'trial_3', amp=True)
    assert one.experiment_name.startswith('trial_3_')
    assert one.experiment_name != two.experiment_name
    assert one.visualizer.name != two.visualizer.name
    assert 'Amp' in two.optim_wrapper.type
    assert options == {'model.weights.alpha': (0.5, 0.6)}


def test_schedules_still_end_with_the_run():
    config = Config(
        dict(
            train_cfg=dict(max_epochs=30),
            param_scheduler=[
                dict(type='LinearLR', end=5),
                dict(type='CosineAnnealingLR', begin=5, T_max=25, end=30),
                dict(type='CosineAnnealingLR', T_max=30),
            ],
        )
    )
    assert epoch_options(config, 4) == {
        'train_cfg.max_epochs': 4,
        'param_scheduler.1.end': 4,
        'param_scheduler.2.T_max': 4,
    }
    assert config.train_cfg.max_epochs == 30
    config.model = dict(weight_schedules=dict(beta=dict(type='LinearWeight', end=30)))
    assert epoch_options(config, 4)['model.weight_schedules.beta.end'] == 4
    assert epoch_options(Config.fromfile(CONFIG), 2) == {
        'train_cfg.max_epochs': 2,
        'param_scheduler.T_max': 2,
    }
    assert epoch_options(Config(dict(train_cfg=dict(max_epochs=3))), 2) == {
        'train_cfg.max_epochs': 2
    }


@pytest.mark.parametrize(('train_cfg', 'epochs'), [(dict(max_epochs=3), 0), (dict(max_iters=9), 2)])
def test_invalid_epochs_raise(train_cfg, epochs):
    with pytest.raises(ValueError, match=f'got {epochs} and max_epochs='):
        epoch_options(Config(dict(train_cfg=train_cfg)), epochs)


def repeated(number, reported, history):
    """Trial that repeats earlier ones."""
    trials = [SimpleNamespace(system_attrs={})] * number
    trials.append(SimpleNamespace(system_attrs=dict(retry_history=history)))
    study = SimpleNamespace(get_trials=lambda deepcopy: trials)
    return SimpleNamespace(
        number=number, study=study, report=lambda value, step: reported.append((step, value))
    )


def test_score_of_a_lost_trial_is_found(tmp_path):
    (tmp_path / '1').mkdir()
    SavedScore(SimpleNamespace(), {'lr': 0.1}, 'a: 1').write(tmp_path / '1', 0.5, {1: 0.25, 2: 0.5})
    (tmp_path / '1' / 'epoch_2.pth').touch()
    for options, settings, history in (
        ({'lr': 0.2}, 'a: 1', [1]),
        ({'lr': 0.1}, 'a: 2', [1]),
        ({'lr': 0.1}, 'a: 1', [0]),
    ):
        reported = []
        saved = SavedScore(repeated(3, reported, history), options, settings)
        assert saved.find(lambda number: tmp_path / str(number)) is None
        assert reported == []
    saved = SavedScore(repeated(3, reported, [0, 1]), {'lr': 0.1}, 'a: 1')
    assert saved.find(lambda number: tmp_path / str(number)) == 0.5
    assert reported == [(1, 0.25), (2, 0.5)]
    assert (tmp_path / '3' / 'epoch_2.pth').exists()


def test_trained_trial_saves_its_score(tmp_path):
    config = small_config(tmp_path, [0.25, 0.75, 0.5])
    trial = repeated(1, [], [0])
    trial.should_prune = lambda: False
    saved = SavedScore(trial, {}, '')
    assert train_trial(trial, config, 'score', 'maximize', saved=saved) == 0.75
    Path(config.work_dir).rename(tmp_path / '0')
    assert saved.find(lambda number: tmp_path / str(number)) == 0.75
