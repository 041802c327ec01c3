"""Training of one parameter in folders with files of earlier runs."""

import json
import math
import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset

from mmkdml.apis import make_runner
from mmkdml.apis.run.identity import start_run, unlock_run
from mmkdml.engine.resume.run_lock import LOCK, holds_lock, lock_folder
from mmkdml.models.checkpoints import load_checkpoint_file


@MODELS.register_module()
class RunLine(BaseModel):
    def __init__(self, mode='v3'):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='tensor'):
        if mode == 'predict':
            return [dict(value=self.weight.detach().clone())]
        return dict(loss=((self.weight * inputs - 1) ** 2).mean())


@DATASETS.register_module()
class RunNumbers(Dataset):
    def __init__(self, ann_file):
        self.rows = Path(ann_file).read_text().split()

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return dict(inputs=torch.tensor(float(self.rows[index])))


@METRICS.register_module()
class RunScore:
    dataset_meta = None

    def process(self, data_batch, data_samples):
        self.value = float(data_samples[0]['value'])

    def evaluate(self, size):
        return {'score': self.value}


@HOOKS.register_module()
class RunRates(Hook):
    """Record learning rate and momentum of each step, and stop at an iteration."""

    seen: list = []
    stop = None

    def before_train_iter(self, runner, *_, **__):
        (group,) = runner.optim_wrapper.param_groups
        self.seen.append((group['lr'], group['momentum']))

    def after_train_iter(self, runner, *_, **__):
        if runner.iter + 1 == type(self).stop:
            signal.raise_signal(signal.SIGTERM)


@pytest.fixture(autouse=True)
def no_stop():
    RunRates.stop = None


@pytest.fixture
def settings(tmp_path):
    """Return the settings of a run of 3 epochs with 4 steps."""
    splits = tmp_path / 'splits'
    splits.mkdir()
    for part in ('train', 'val'):
        (splits / f'{part}.csv').write_text('1 2 3 4 5 6 7 8\n')
    loader = dict(batch_size=2, num_workers=0, collate_fn=dict(type='default_collate'))
    sampler = dict(type='DefaultSampler', shuffle=True)

    def make(name='run', **changes):
        config = Config(
            dict(
                model=dict(type='RunLine'),
                work_dir=str(tmp_path / name),
                train_dataloader=dict(
                    loader, dataset=dict(type='RunNumbers', ann_file=str(splits / 'train.csv')),
                    sampler=sampler,
                ),
                val_dataloader=dict(
                    loader, dataset=dict(type='RunNumbers', ann_file=str(splits / 'val.csv')),
                    sampler=dict(sampler, shuffle=False),
                ),
                val_cfg=dict(),
                val_evaluator=[dict(type='RunScore')],
                train_cfg=dict(by_epoch=True, max_epochs=3),
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9)),
                param_scheduler=[
                    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=3),
                    dict(type='CosineAnnealingLR', T_max=3),
                ],
                default_hooks=dict(
                    checkpoint=dict(
                        type='mmkdml.SafeCheckpointHook', interval=1, max_keep_ckpts=2,
                        save_best='score', rule='greater',
                    ),
                ),
                custom_hooks=[dict(type='mmkdml.ExactResumeHook'), dict(type='RunRates')],
                randomness=dict(seed=3),
                log_level='ERROR',
                default_scope='mmengine',
            )
        )  # fmt: skip
        config.merge_from_dict(changes)
        object.__setattr__(config, '_filename', 'small.py')
        return config

    return make


NUMBERS = iter(range(10**6))


def train(config, **options):
    """Train, and return learning rate and momentum of each step."""
    config.experiment_name = f'identity{next(NUMBERS)}'  # two of one second share their log
    RunRates.seen.clear()
    make_runner(config, **options).train()
    return list(RunRates.seen)


def stop_at(iteration, config, **options):
    RunRates.stop = iteration
    with pytest.raises(SystemExit):
        train(config, **options)
    RunRates.stop = None
    return list(RunRates.seen)


def files(folder):
    """Return the content of all files of a run except logs and lock."""
    return {
        path.name: path.read_bytes()
        for path in Path(folder).iterdir()
        if path.is_file() and path.name != LOCK
    }


def weight(folder, name='epoch_3.pth'):
    return float(load_checkpoint_file(Path(folder) / name)['state_dict']['weight'])


def identity(folder):
    content = json.loads((Path(folder) / 'identity.json').read_text())
    content.pop('finished', None)
    return content


def test_starting_without_resume_keeps_the_earlier_run(settings):
    train(settings())
    before = files(settings().work_dir)
    with pytest.raises(ValueError, match=r'epoch_3\.pth, .*best_.*--resume .*--overwrite'):
        train(settings(**{'randomness.seed': 7}))
    assert files(settings().work_dir) == before


def test_starting_with_other_options_keeps_the_config_of_the_run(settings):
    first = {'optim_wrapper.optimizer.lr': 0.02, 'model.mode': 'v1'}
    stop_at(6, settings(**first))
    before = files(settings().work_dir)
    with pytest.raises(ValueError, match='--accept-changes') as refused:
        train(settings(resume=True))
    assert "  model.mode: 'v1' -> (not set)\n" in str(refused.value)
    assert '  optim_wrapper.optimizer.lr: 0.02 -> 0.01\n' in str(refused.value)
    assert files(settings().work_dir) == before
    train(settings(resume=True, **first))
    assert 'lr=0.02' in (Path(settings().work_dir) / 'small.py').read_text()
    train(settings('undisturbed', **first))
    assert weight(settings().work_dir) == weight(settings('undisturbed').work_dir)


def test_config_of_a_resumed_run_starts_a_new_run(settings, tmp_path):
    """It contains the settings at the start, not the file that was resumed."""
    train(settings('earlier'))
    weights = str(next((tmp_path / 'earlier').glob('epoch_*.pth')))
    stop_at(6, settings(load_from=weights))
    for _ in range(2):
        train(settings(resume=True))
        config = Config.fromfile(tmp_path / 'run' / 'small.py')
        assert (config.resume, config.load_from) == (False, weights)


def test_overwrite_with_resume_raises(settings):
    train(settings())
    before = files(settings().work_dir)
    with pytest.raises(ValueError, match='resume=True.*resume=False load_from=None'):
        train(settings(resume=True), overwrite=True)
    assert files(settings().work_dir) == before
    train(settings(resume=False, load_from=None), overwrite=True)


def test_end_of_a_run_is_recorded(settings):
    file = Path(settings().work_dir, 'identity.json')
    stop_at(6, settings())
    assert 'finished' not in json.loads(file.read_text())
    train(settings(resume=True))
    assert json.loads(file.read_text())['finished'] == dict(epoch=3, iter=12)
    stop_at(14, settings(resume=True, **{'train_cfg.max_epochs': 4}))
    assert 'finished' not in json.loads(file.read_text())


def test_resumed_run_keeps_its_id_and_a_new_run_gets_another(settings):
    folder = settings().work_dir
    stop_at(6, settings())
    first = identity(folder)
    train(settings(resume=True))
    assert identity(folder) == first
    meta = load_checkpoint_file(Path(folder) / 'epoch_3.pth')['meta']['run']
    assert meta == first
    assert first['settings']['data'].keys() == {'train', 'val'}
    train(settings(**{'randomness.seed': 7}), overwrite=True)
    assert identity(folder)['id'] != first['id']
    assert {name for name in files(folder) if name.startswith('epoch')} == {
        'epoch_2.pth', 'epoch_3.pth',
    }  # fmt: skip
    assert len([name for name in files(folder) if name.startswith('best')]) == 1


def test_overwriting_removes_nothing_before_training_starts(settings):
    train(settings())
    before = files(settings().work_dir)
    for change, error in (
        ({'train_dataloader.dataset.ann_file': 'nowhere.csv'}, FileNotFoundError),
        ({'train_dataloader.batch_size': 99, 'train_dataloader.drop_last': True}, ValueError),
    ):
        with pytest.raises(error):
            train(settings(**change), overwrite=True)
        assert files(settings().work_dir) == before


def test_changed_settings_raise(settings):
    stop_at(6, settings())
    before = files(settings().work_dir)
    for change, key in (
        ({'param_scheduler.1.T_max': 6}, r'param_scheduler\.1\.T_max: 3 -> 6'),
        ({'train_dataloader.batch_size': 4}, r'train_dataloader\.batch_size: 2 -> 4'),
        ({'randomness.seed': 4}, r'randomness\.seed: 3 -> 4'),
        ({'custom_hooks': []}, r'custom_hooks\.0\.type: '),
        ({'auto_scale_lr': dict(enable=True, base_batch_size=4)}, r'auto_scale_lr'),
        ({'optim_wrapper.type': 'AmpOptimWrapper'}, r"optim_wrapper\.type: \(not set\) -> 'Amp"),
        ({'default_hooks.checkpoint.rule': 'less'}, r"checkpoint\.rule: 'greater' -> 'less'"),
    ):
        with pytest.raises(ValueError, match=rf'(?s){key}.*--accept-changes'):
            train(settings(resume=True, **change))
        assert files(settings().work_dir) == before


def test_incidental_settings_may_change(settings):
    stop_at(6, settings())
    changes = {
        'train_dataloader.num_workers': 1,
        'default_hooks.checkpoint.max_keep_ckpts': 3,
        'default_hooks.logger': dict(type='LoggerHook', interval=7),
        'log_level': 'CRITICAL',
    }
    train(settings(resume=True, **changes))
    train(settings('undisturbed'))
    assert weight(settings().work_dir) == weight(settings('undisturbed').work_dir)


def test_changed_data_of_equal_length_raise(settings, tmp_path):
    stop_at(6, settings())
    before = identity(settings().work_dir)['settings']['data']['train']
    (tmp_path / 'splits' / 'train.csv').write_text('8 7 6 5 4 3 2 9\n')
    with pytest.raises(ValueError, match=f"data.train: '{before}' -> "):
        train(settings(resume=True))
    train(settings(resume=True), accept_changes=True)
    assert identity(settings().work_dir)['settings']['data']['train'] != before


@pytest.mark.parametrize('stop', [2, 4, 6, 8, 9])
def test_accepted_changes_follow_the_new_schedule(settings, stop):
    """Compared with a new run with these settings, and the closed form of the cosine."""
    changes = {
        'optim_wrapper.optimizer': dict(lr=0.02, momentum=0.5),
        'param_scheduler.1.T_max': 6,
        'train_cfg.max_epochs': 6,
    }
    expected = train(settings('undisturbed', **changes))
    for epoch in range(1, 6):  # after the warm-up, which ends in the first epoch
        cosine = 0.02 * (1 + math.cos(math.pi * epoch / 6)) / 2
        assert expected[4 * epoch][0] == pytest.approx(cosine, rel=1e-6)
    stop_at(stop, settings())
    assert train(settings(resume=True, **changes), accept_changes=True) == expected[stop:]
    # From here on, these are the run's settings.
    assert identity(settings().work_dir)['settings']['train_cfg']['max_epochs'] == 6
    train(settings(resume=True, **changes))


def test_optimizer_state_is_kept_unless_its_type_changes(settings):
    stop_at(6, settings())
    changes = {'optim_wrapper.optimizer.lr': 0.0}
    stop_at(7, settings(resume=True, **changes), accept_changes=True)
    saved = load_checkpoint_file(Path(settings().work_dir) / 'interrupted.pth')
    assert saved['optimizer']['param_groups'][0]['lr'] == 0
    assert saved['optimizer']['state'][0]['momentum_buffer'].abs().max() > 0
    adam = {'optim_wrapper.optimizer': dict(_delete_=True, type='Adam', lr=0.01)}
    with pytest.raises(KeyError, match='momentum'):  # the hook of this test reads it
        train(settings(resume=True, **adam), accept_changes=True)


def test_changed_seed_is_used(settings):
    stop_at(6, settings())
    train(settings(resume=True, **{'randomness.seed': 4}), accept_changes=True)
    assert load_checkpoint_file(Path(settings().work_dir) / 'epoch_3.pth')['meta']['seed'] == 4


@pytest.mark.parametrize(
    ('schedule', 'refused'),
    [
        ([], False),
        ([dict(type='MultiStepLR', milestones=[1, 4])], False),
        ([dict(type='CosineAnnealingLR', T_max=3)], False),
        ([dict(type='LinearLR', end=2)], False),
        ([dict(type='PolyLR')], True),
        ([dict(type='CosineAnnealingLR')], True),
        ([dict(type='ReduceOnPlateauLR', monitor='score')], True),
    ],
)
def test_run_is_extended_if_its_schedule_allows(settings, schedule, refused):
    schedule = dict(param_scheduler=schedule)
    longer = {**schedule, 'train_cfg.max_epochs': 5}
    train(settings(**schedule))
    if refused:
        with pytest.raises(ValueError, match=r'train_cfg\.max_epochs: 3 -> 5'):
            train(settings(resume=True, **longer))
    else:
        expected = train(settings('undisturbed', **longer))
        assert train(settings(resume=True, **longer)) == expected[12:]
        folders = (settings('undisturbed').work_dir, settings().work_dir)
        assert len({weight(folder, 'epoch_5.pth') for folder in folders}) == 1


def test_checkpoint_of_another_run_raises(settings):
    train(settings('other', **{'randomness.seed': 7, 'train_cfg.max_epochs': 4}))
    stop_at(6, settings())
    folder = Path(settings().work_dir)
    shutil.copy(Path(settings('other').work_dir) / 'epoch_4.pth', folder)
    before = files(folder)
    with pytest.raises(ValueError, match=rf'run {identity(folder)["id"][:8]}, got .*epoch_4'):
        train(settings(resume=True))
    with pytest.raises(ValueError, match='expected a checkpoint of run'):
        train(settings(resume=True, load_from=str(folder / 'epoch_4.pth')))
    assert files(folder) == before


def test_named_checkpoint_is_resumed(settings, tmp_path):
    train(settings())
    folder = Path(settings().work_dir)
    expected = weight(folder)
    early = str(folder / 'epoch_2.pth')
    elsewhere = str(tmp_path / 'epoch_2.pth')
    shutil.copy(early, elsewhere)
    with pytest.raises(ValueError, match='holds other checkpoints: .*epoch_3'):
        train(settings(resume=True, load_from=elsewhere))
    train(settings('branch', resume=True, load_from=elsewhere))
    assert weight(settings('branch').work_dir) == expected
    start = start_run(settings(resume=True, load_from=early))
    unlock_run(settings())
    assert any('epoch_3.pth' in note and 'overwritten' in note for _, note in start.notes)
    (best,) = folder.glob('best_*.pth')
    with pytest.raises(
        ValueError, match='expected .* the state of the optimizer, got weights only'
    ):
        train(settings(resume=True, load_from=str(best)))
    os.mkfifo(tmp_path / 'pipe.pth')
    (tmp_path / 'link.pth').symlink_to(early)
    for name in ('pipe.pth', 'link.pth', 'splits'):
        with pytest.raises(ValueError, match=f'{name}: expected a regular file'):
            train(settings('new', resume=True, load_from=str(tmp_path / name)))


def test_run_of_an_earlier_version_is_adopted(settings):
    folder = Path(settings().work_dir)
    stop_at(10, settings())
    (folder / 'identity.json').unlink()
    for path in folder.glob('*.pth'):
        checkpoint = load_checkpoint_file(path)
        del checkpoint['meta']['run']
        torch.save(checkpoint, path)
    stop_at(11, settings(resume=True))
    adopted = identity(folder)
    assert adopted['adopted']
    (folder / 'interrupted.pth').unlink()  # continue from a checkpoint without an id
    train(settings(resume=True))
    assert identity(folder) == adopted
    train(settings('undisturbed'))
    assert weight(folder) == weight(settings('undisturbed').work_dir)
    (folder / 'epoch_3.pth').unlink()
    with pytest.raises(ValueError, match='randomness.seed: 3 -> 4'):
        train(settings(resume=True, **{'randomness.seed': 4}))


def test_missing_identity_is_taken_from_the_checkpoints(settings):
    folder = Path(settings().work_dir)
    stop_at(6, settings())
    before = identity(folder)
    (folder / 'identity.json').unlink()
    train(settings(resume=True))
    assert identity(folder) == before
    (folder / 'identity.json').write_text('{"id": 3}')
    with pytest.raises(ValueError, match=r'identity\.json: expected the id and settings'):
        train(settings(resume=True))


def test_settings_are_compared_before_the_first_checkpoint(settings):
    stop_at(1, settings())
    (Path(settings().work_dir) / 'interrupted.pth').unlink()
    with pytest.raises(ValueError, match=r'randomness\.seed: 3 -> 4'):
        train(settings(resume=True, **{'randomness.seed': 4}))
    train(settings(resume=True))


def test_other_number_of_processes_warns(settings):
    stop_at(6, settings())
    path = Path(settings().work_dir) / 'interrupted.pth'
    checkpoint = load_checkpoint_file(path)
    checkpoint['meta']['run']['processes'] = 4
    torch.save(checkpoint, path)
    start = start_run(settings(resume=True))
    unlock_run(settings())
    assert any('had 4 processes, now it has 1' in note for _, note in start.notes)


def test_checkpoints_in_out_dir_are_found(settings, tmp_path):
    out = {'default_hooks.checkpoint.out_dir': str(tmp_path / 'out')}
    train(settings(**out))
    with pytest.raises(ValueError, match=r'epoch_3\.pth'):
        train(settings(**out))
    for path in (tmp_path / 'out' / 'run').glob('epoch_*.pth'):
        path.write_bytes(b'broken')
    with pytest.raises(ValueError, match=r'epoch_3\.pth is not a valid checkpoint'):
        train(settings(resume=True, **out))


def test_testing_does_not_change_the_config_of_the_run(settings):
    train(settings())
    before = files(settings().work_dir)
    make_runner(settings(experiment_name='test', **{'model.mode': 'v1'}), train=False)
    assert files(settings().work_dir) == before


@pytest.mark.filterwarnings('ignore:.* is a link to .* and is replaced')
@pytest.mark.parametrize('name', ['last_checkpoint', 'small.py', 'identity.json'])
def test_nothing_is_written_through_links(settings, tmp_path, name):
    mine = tmp_path / 'mine'
    mine.write_text('mine')
    folder = Path(settings().work_dir)
    folder.mkdir()
    (folder / name).symlink_to(mine)
    train(settings())
    assert mine.read_text() == 'mine'
    assert (folder / name).is_file()
    assert not (folder / name).is_symlink()


def test_logs_are_not_written_through_links(settings, tmp_path, monkeypatch):
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    folder = Path(settings().work_dir)
    folder.mkdir()
    monkeypatch.setattr('time.strftime', lambda *_: 'now')
    (folder / 'now').symlink_to(elsewhere)
    with pytest.warns(UserWarning, match='now is a link to .* and is replaced'):
        train(settings())
    assert not any(elsewhere.iterdir())
    assert (folder / 'now' / 'now.log').is_file()
    (folder / LOCK).unlink()
    (folder / LOCK).symlink_to(elsewhere / 'lock')
    with pytest.raises(ValueError, match=r'\.lock: expected a regular file'):
        train(settings(resume=True))


def _refused(config, message, rank=0, port=None):
    if port is not None:
        os.environ.update(
            RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1',
            MASTER_PORT=str(port),
        )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        make_runner(config, 'none' if port is None else 'pytorch')


def test_second_training_in_a_folder_raises(settings, all_forked):
    make_runner(settings(experiment_name='first'))
    try:
        all_forked(
            (_refused, settings(), f'in use by process {os.getpid()} on {socket.gethostname()}')
        )
    finally:
        unlock_run(settings())


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        ({'model.type': 'NoSuchModel'}, 'NoSuchModel'),
        # mmengine's own ValueError
        ({'custom_hooks': [dict(type='EarlyStoppingHook', monitor='ensemble/IoU')]}, 'rule'),
    ],
)
def test_failed_run_releases_its_folder(settings, all_forked, option, message):
    with pytest.raises(ValueError, match=f'Invalid config.*{message}'):
        make_runner(settings(**option))
    assert not holds_lock(settings().work_dir)
    stop_at(2, settings())
    assert not holds_lock(settings().work_dir)


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
@pytest.mark.parametrize('locked', [True, False])
def test_all_processes_raise_together(settings, all_forked, locked):
    """Only the main process holds the lock and checks the folder."""
    train(settings())
    if locked:
        lock_folder(settings().work_dir)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    message = f'in use by process {os.getpid()}' if locked else r'epoch_3\.pth.*--resume'
    all_forked(*((_refused, settings(), message, rank, port) for rank in range(2)))
    unlock_run(settings())
