import json
import math
import os
import re
import shutil
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from mmengine.config import Config

from mmkdml import apis
from mmkdml.files import file_sha256
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.weight_checks import FROZEN_RECORD

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'
LOSSES = (
    'teacher.decode.loss_focal_dice',
    'student_1.decode.loss_focal_dice',
    'student_1.loss_from_teacher.features',
    'student_1.loss_from_student_2.predictions',
    'student_2.decode.loss_focal_dice',
    'student_2.loss_from_teacher.predictions',
    'student_2.loss_from_student_1.features',
)


def weights(folder, name='epoch_1.pth'):
    return load_checkpoint_file(folder / name)['state_dict']


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) for key, value in first.items()
    )


def scalars(folder):
    """Return the logged scalars of training steps."""
    (path,) = folder.glob('*/vis_data/scalars.json')
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in lines if 'loss' in line]


def test_run_writes_checkpoints_log_and_table(trained):
    folder, done = trained
    names = {path.name for path in folder.iterdir()}
    assert {'epoch_1.pth', 'epoch_2.pth', 'last_checkpoint', 'kdml_v3_demo.py'} <= names
    assert any(name.startswith('best_ensemble_foreground_IoU_epoch_') for name in names)
    (log,) = folder.glob('*/*.log')
    table = log.read_text().split('Members, validation after iteration 4\n')[1].splitlines()
    rows = [line.split()[1] for line in table[3:7]]
    assert rows == ['teacher', 'student_1', 'student_2', 'ensemble']
    assert 'Hooks will be executed' in log.read_text()
    assert 'FileClient' not in log.read_text()
    steps = scalars(folder)
    assert len(steps) == 4  # 16 slices in batches of 8, two epochs
    for step in steps:
        assert all(math.isfinite(step[key]) for key in LOSSES)
        # The logged losses add up to the optimized one.
        assert step['loss'] == pytest.approx(sum(step[key] for key in LOSSES), rel=1e-5)
    assert Config.fromfile(folder / 'kdml_v3_demo.py').train_cfg.max_epochs == 2


def test_run_writes_a_summary(trained):
    folder, _ = trained
    (path,) = folder.glob('*/call_train.json')
    record = json.loads(path.read_text())
    assert (record['status'], record['epoch'], record['max_epochs']) == ('finished', 2, 2)
    assert [one['name'] for one in record['members']] == ['teacher', 'student_1', 'student_2']
    assert [one['key'] for one in record['transfers']] == [key for key in LOSSES if '_from_' in key]
    assert record['command'].startswith('python ')
    page = (folder / 'summary.html').read_text()
    assert all(fact in page for fact in ('2 of 2 epochs', 'Losses of student_2', 'FeatureMSELoss'))
    assert len(page) < 500_000


def test_training_prints_a_short_header_and_two_validations(trained):
    folder, done = trained
    assert done.stderr == ''
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith(('warning', 'error'))] == []
    assert '\x1b' not in done.stdout
    first = next(place for place, line in enumerate(lines) if line.startswith('epoch 1/2'))
    assert first <= 25
    header = '\n'.join(lines[:first])
    for text in (
        'student_2',
        'StemResNet',
        'train 16 images of 4 groups',
        'test 4 images',
        'CPU',
        'float32',
        '2 epochs of 2 steps',
        str(folder),
        '--resume',
        'Ctrl-C',
    ):
        assert text in header, text
    assert sum(line.startswith('epoch ') for line in lines) == 2
    rows = [line.split()[0] for line in lines[first:] if line.startswith(('tea', 'stu', 'ens'))]
    assert rows == 2 * ['teacher', 'student_1', 'student_2', 'ensemble']
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100 + len(str(folder))


@pytest.mark.slow
def test_teacher_cache_with_augmentation(tool, short, tmp_path, checkpoint):
    """Uses the options of the guide. Augmented images that recur are found in the cache."""
    guide = (ROOT / 'docs' / 'teacher_cache.md').read_text().replace('\\\n', ' ')
    line = re.search(r'mmkdml train mmkdml::kd_off/.* --cfg-options (.*)\n', guide)[1]
    options = line.replace('work_dirs', str(tmp_path)).replace('image=4', 'image=1').split()
    off = ['model.mode=kd_off', 'model.weights.gamma=None']
    off += [f'model.teacher_checkpoint={checkpoint}']
    tool('train', CONFIG, '--work-dir', tmp_path / 'run', options=[*short, *off, *options])
    steps = scalars(tmp_path / 'run')
    assert [step['teacher.cached'] for step in steps] == [0, 0, 1, 1]
    size = (tmp_path / 'teacher_cache.sqlite').stat().st_size
    assert steps[-1]['teacher.cache_gib'] == pytest.approx(size / 2**30)
    images = 64 * 64 + 64 * 4 * 4  # logits, and 64 maps of 4x4
    assert 16 * images * 4 < size < 1.2 * 16 * images * 4 + 5 * 16384


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file()}


def test_resumed_run_equals_uninterrupted_run(trained, tool, tmp_path, capsys):
    """It is resumed with the options of its first start, until it is finished."""
    folder, _ = trained
    shutil.copy(folder / 'epoch_1.pth', tmp_path)
    (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_1.pth'))
    tool('train', CONFIG, '--work-dir', tmp_path, '--resume')
    assert 'train_cfg.max_epochs=2 param_scheduler.T_max=2' in capsys.readouterr().out
    assert [step['epoch'] for step in scalars(tmp_path)] == [2, 2]
    ours, undisturbed = (load_checkpoint_file(path / 'epoch_2.pth') for path in (tmp_path, folder))
    assert (ours['meta']['epoch'], ours['meta']['iter']) == (2, 4)
    assert same(ours['state_dict'], undisturbed['state_dict'])
    assert not same(ours['state_dict'], weights(folder))
    for key, state in undisturbed['optimizer']['state'].items():
        assert same(state, ours['optimizer']['state'][key])
    before = files(tmp_path)
    for command in ([CONFIG, '--work-dir', tmp_path], [tmp_path]):
        tool('train', *command, '--resume', experiment=False)
        note = capsys.readouterr().out
        assert 'is finished after 2 epochs' in note
        assert 'train_cfg.max_epochs=<more than 2>' in note
    assert files(tmp_path) == before


def test_run_stopped_by_signal_is_resumed(trained, tool, forked_script, short, tmp_path):
    """The workers receive the signal as well; the uninterrupted run has no workers."""
    options = [
        *short,
        'train_dataloader.num_workers=2',
        'val_dataloader.num_workers=2',
        'val_dataloader.persistent_workers=True',
    ]
    run, output = tmp_path / 'run', tmp_path / 'output'
    command = [CONFIG, '--verbose', '--work-dir', run, '--cfg-options', *options]
    process = forked_script(output, ROOT / 'tools' / 'train.py', *command)
    while process.is_alive() and not (
        output.exists() and 'Epoch(train) [1][1/2]' in output.read_text()
    ):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    process.join(60)
    text = output.read_text()
    assert process.exitcode == 128 + signal.SIGTERM, text
    # The signal may arrive in any later iteration.
    assert re.search(r'Stopped by SIGTERM .*after iteration \d', text)
    assert '>interrupted<' in (run / 'summary.html').read_text()
    tool('train', CONFIG, '--work-dir', run, '--resume', options=short)
    assert '2 of 2 epochs, resumed 1 time' in (run / 'summary.html').read_text()
    ours, undisturbed = (load_checkpoint_file(path / 'epoch_2.pth') for path in (run, trained[0]))
    assert same(ours['state_dict'], undisturbed['state_dict'])
    assert {path.name for path in run.glob('*.pth')} == {
        path.name for path in trained[0].glob('*.pth')
    }


@pytest.mark.slow
def test_only_runs_of_a_restarted_job_are_resumed(tool, short, tmp_path, monkeypatch, capsys):
    """The job has ``--overwrite``, and was killed after its first epoch."""
    command = ('train', CONFIG, '--work-dir', tmp_path, '--overwrite')
    monkeypatch.setenv('SLURM_JOB_ID', '7')
    tool(*command, options=short)
    undisturbed, kept = (weights(tmp_path, f'epoch_{epoch}.pth') for epoch in (2, 1))
    (tmp_path / 'epoch_2.pth').unlink()
    started = (tmp_path / 'epoch_1.pth').stat().st_mtime_ns
    capsys.readouterr()

    monkeypatch.setenv('SLURM_RESTART_COUNT', '1')
    tool(*command, options=short)
    assert f'Slurm job 7 was restarted: resuming {tmp_path}' in capsys.readouterr().out
    assert (tmp_path / 'epoch_1.pth').stat().st_mtime_ns == started
    assert same(weights(tmp_path, 'epoch_1.pth'), kept)
    assert same(weights(tmp_path, 'epoch_2.pth'), undisturbed)

    monkeypatch.setenv('SLURM_JOB_ID', '8')  # killed before it began to train
    tool(*command, options=[*short, 'train_cfg.max_epochs=1'])
    assert (tmp_path / 'epoch_1.pth').stat().st_mtime_ns > started


@pytest.mark.slow
def test_image_cache_and_profile_leave_the_weights_unchanged(
    trained, tool, short, tmp_path, capsys
):
    cache, run = tmp_path / 'cache', tmp_path / 'run'
    tool('train', CONFIG, '--work-dir', run, '--cache-images', cache, '--profile', 1, options=short)
    assert len(list(cache.glob('*.pack'))) == 4  # images and masks to train, and to validate
    assert 'more than skip=5 iterations, got 4' in capsys.readouterr().out
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        assert same(weights(run, name), weights(trained[0], name))
    left = Config.fromfile(run / 'kdml_v3_demo.py')
    assert left.train_dataloader.dataset.image_cache == dict(dir=str(cache))
    assert left.custom_hooks[-1] == dict(type='mmkdml.ProfileHook', iterations=1)


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (['--overwrite', '--resume'], 'use only one of them'),
        (['--accept-changes'], '--accept-changes requires --resume'),
    ],
)
def test_conflicting_options(tool, capsys, args, message):
    with pytest.raises(SystemExit):
        tool('train', CONFIG, *args)
    assert message in capsys.readouterr().err


def test_defaults_of_cache_and_profile(tool, monkeypatch):
    configs = []
    monkeypatch.setattr(
        apis, 'make_runner', lambda config, *_, **__: configs.append(config) or Mock()
    )
    tool('train', CONFIG, '--cache-images', '--profile')
    tool('train', CONFIG)
    assert configs[0].val_dataloader.dataset.image_cache == dict(dir='work_dirs/image_cache')
    assert configs[0].custom_hooks[-1] == dict(type='mmkdml.ProfileHook', iterations=10)
    assert 'image_cache' not in configs[1].val_dataloader.dataset
    assert len(configs[1].custom_hooks) == len(configs[0].custom_hooks) - 1


@pytest.mark.slow
def test_full_disk_is_one_line(tool, short, tmp_path, monkeypatch):
    fsync = os.fsync

    def full(handle):
        if '.pth.' in os.readlink(f'/proc/self/fd/{handle}'):  # smaller files before it fit
            raise OSError(28, 'No space left on device')
        fsync(handle)

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(SystemExit) as stopped:
        tool('train', CONFIG, '--work-dir', tmp_path, options=short)
    assert str(stopped.value) == (
        'train.py: error: [Errno 28] No space left on device (the previous file is unchanged): '
        f"'{tmp_path / 'epoch_1.pth'}'"
    )


@pytest.mark.slow
def test_fast_run_is_resumed_exactly(tool, short, tmp_path):
    tool('train', CONFIG, '--fast', '--work-dir', tmp_path / 'uninterrupted', options=short)
    uninterrupted = load_checkpoint_file(tmp_path / 'uninterrupted' / 'epoch_2.pth')
    shutil.copytree(tmp_path / 'uninterrupted', tmp_path / 'resumed')
    (tmp_path / 'resumed' / 'epoch_2.pth').unlink()
    command = ['--fast', '--resume', '--work-dir', tmp_path / 'resumed']
    tool('train', CONFIG, *command, options=short)
    resumed = load_checkpoint_file(tmp_path / 'resumed' / 'epoch_2.pth')
    assert same(resumed['state_dict'], uninterrupted['state_dict'])
    assert all(value.is_contiguous() for value in uninterrupted['state_dict'].values())
    states = uninterrupted['optimizer']['state']
    for key, state in resumed['optimizer']['state'].items():
        assert same(state, states[key])
        assert all(value.is_contiguous() for value in state.values())
    assert uninterrupted['optimizer']['param_groups'][0]['fused'] is True


@pytest.fixture
def not_deterministic_after():
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


@pytest.mark.slow
@pytest.mark.usefixtures('not_deterministic_after')
def test_seed_determines_the_weights(tool, data_options, tmp_path):
    options = [*data_options, 'train_cfg.max_epochs=1', 'train_cfg.val_interval=2']
    options += ['train_dataloader.dataset.indices=8', 'train_dataloader.batch_size=4']
    for name, seed in (('a', 3), ('b', 3), ('c', 4)):
        chosen = ['--seed', seed, '--deterministic'] if name == 'b' else ['--seed', seed]
        tool('train', CONFIG, '--work-dir', tmp_path / name, *chosen, options=options)
    assert same(weights(tmp_path / 'a'), weights(tmp_path / 'b'))
    assert not same(weights(tmp_path / 'a'), weights(tmp_path / 'c'))


@pytest.mark.skipif(torch.cuda.is_available(), reason="the precision is the GPU's there")
def test_mixed_precision_on_a_cpu(trained, tool, short, tmp_path):
    tool(
        'train', CONFIG, '--work-dir', tmp_path, '--amp', options=[*short, 'train_cfg.max_epochs=1']
    )
    mixed, full = scalars(tmp_path)[0], scalars(trained[0])[0]
    for key in LOSSES:
        assert math.isfinite(mixed[key])
        # Same weights and images in the first step, but bfloat16.
        assert mixed[key] == pytest.approx(full[key], rel=0.1, abs=1e-3)
    assert mixed['loss'] != full['loss']


@pytest.fixture
def configs(tmp_path):
    """Copy of the configs, with one of the demo's teacher and one of offline distillation."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    demo = tmp_path / 'configs' / 'demo'
    head = (
        'from mmengine.config import read_base\n'
        'with read_base():\n'
        '    from .kdml_v3_demo import *\n'
    )
    (demo / 'teacher.py').write_text(
        head + 'model = dict(small_teacher, data_preprocessor=data_preprocessor)\n'
        "default_hooks['checkpoint'].update(save_best='model/foreground/IoU')\n"
    )
    (demo / 'kd_off.py').write_text(
        head + "model.update(mode='kd_off', weights=dict(beta=(0.6, 0.6), gamma=None),\n"
        f"             teacher_checkpoint='{tmp_path / 'teacher'}')\n"
    )
    return demo


@pytest.mark.slow
def test_offline_distillation_from_a_baseline(configs, tool, short, tmp_path):
    # At first a network learns to predict background only. Near its initial weights it predicts
    # some foreground, which can be compared.
    tool(
        'train',
        configs / 'teacher.py',
        '--work-dir',
        tmp_path / 'teacher',
        options=[*short, 'optim_wrapper.optimizer.lr=1e-6'],
    )
    tool('train', configs / 'kd_off.py', '--work-dir', tmp_path / 'kd_off', options=short)

    # The checkpoint contains the source of the teacher's weights instead of the weights.
    (best,) = (tmp_path / 'teacher').glob('best_*.pth')
    saved = weights(tmp_path / 'kd_off', 'epoch_2.pth')
    record = json.loads(bytes(saved.pop(FROZEN_RECORD).tolist()))
    assert record == {'teacher': {'path': str(best), 'sha256': file_sha256(best), 'fused': True}}
    assert {key.split('.')[1] for key in saved} == {'student_1', 'student_2'}
    assert not any('teacher' in key for key in saved)

    # The teacher in the classroom has the metrics of the trained one.
    for name, key in (('teacher', 'model'), ('kd_off', 'teacher')):
        tool(
            'test',
            configs / f'{name}.py',
            tmp_path / name,
            '--work-dir',
            tmp_path / 'test',
            '--out',
            tmp_path / f'{name}.json',
            options=short,
        )
        metrics = json.loads((tmp_path / f'{name}.json').read_text())
        taught = {
            metric: value for metric, value in metrics.items() if metric.startswith(f'{key}/')
        }
        if name == 'teacher':
            baseline = {
                metric.replace('model/', 'teacher/'): value for metric, value in taught.items()
            }
    assert taught == baseline
    assert taught['teacher/foreground/IoU'] > 0

    # The run resumes with its teacher only.
    again = [*short, 'train_cfg.max_epochs=3']
    tool(
        'train', configs / 'kd_off.py', '--work-dir', tmp_path / 'kd_off', '--resume', options=again
    )
    assert load_checkpoint_file(tmp_path / 'kd_off' / 'epoch_3.pth')['meta']['epoch'] == 3
    other = tmp_path / 'other.pth'
    torch.save(
        {key: value + 1 for key, value in weights(tmp_path / 'teacher', best.name).items()}, other
    )
    with pytest.raises(SystemExit) as stopped:
        tool(
            'train',
            configs / 'kd_off.py',
            '--work-dir',
            tmp_path / 'kd_off',
            '--resume',
            options=[*again, f'model.teacher_checkpoint={other}'],
        )
    message = str(stopped.value)
    assert message.startswith('train.py: error: Invalid frozen teacher')
    assert f'trained with, {best} (SHA-256 ' in message
    assert f'got {other} (' in message


@pytest.mark.parametrize(
    ('config', 'options', 'message'),
    [
        ('nowhere.py', [], 'There is no config file nowhere.py'),
        (CONFIG, ['model.mode=kd'], "mode must be one of ml, kd_off, kd_on, kdml; got 'kd'"),
        (
            CONFIG,
            ['model.mode=kd_off', 'model.weights.gamma=None', 'model.teacher_checkpoint=nowhere'],
            'There is no checkpoint at nowhere',
        ),
        (CONFIG, ['train_dataloader.dataset.ann_file=nowhere.csv'], 'nowhere.csv'),
    ],
)
def test_user_error_is_one_line(tool, tmp_path, config, options, message):
    with pytest.raises(SystemExit) as stopped:
        tool('train', config, '--work-dir', tmp_path, options=options)
    assert str(stopped.value).startswith('train.py: error: ')
    assert message in str(stopped.value)


@pytest.mark.parametrize(
    'name',
    [
        'train',
        'test',
        'print_classroom',
        'list_taps',
        'publish',
        'demo',
        'dataset_converters/lgg',
        'dataset_converters/pcam',
        'dataset_converters/make_demo_data',
    ],
)
def test_help(tool, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        tool(name, '--help', experiment=False)
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f'usage: {Path(name).name}.py')
    assert 'local_rank' not in text
