import copy
import logging
import os
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS, VISBACKENDS
from mmengine.runner import Runner
from mmpretrain.datasets import CustomDataset

from mmkdml import optional
from mmkdml.apis import load_config, load_weights, make_runner, runs, use_amp
from mmkdml.apis.runs import IMAGE_CACHE, use_deterministic, use_fast, use_image_cache, use_logs
from mmkdml.engine import (
    ChannelsLastHook,
    CPUAmpOptimWrapper,
    SafeResumeHook,
    StrictJsonVisBackend,
    StrictWeightsHook,
    TransferWeightHook,
    WatchLoadersHook,
)
from mmkdml.engine.log_backends import TensorboardLog, WandbLog

DEMO = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'


def test_options_and_work_dir(tmp_path):
    config = load_config(DEMO, {'train_cfg.max_epochs': 3})
    assert config.train_cfg.max_epochs == 3
    assert config.work_dir == str(Path('work_dirs') / 'demo' / 'kdml_v3_demo')
    assert load_config(DEMO, work_dir=tmp_path).work_dir == str(tmp_path)
    own = tmp_path / 'own.py'
    own.write_text("work_dir = 'mine'\n")
    assert load_config(own).work_dir == 'mine'
    with pytest.raises(FileNotFoundError, match='There is no config file .*nowhere.py'):
        load_config(tmp_path / 'nowhere.py')


@pytest.mark.parametrize(
    ('cuda', 'bf16', 'kind', 'dtype'),
    [
        (False, False, 'mmkdml.CPUAmpOptimWrapper', None),
        (True, True, 'AmpOptimWrapper', 'bfloat16'),
        (True, False, 'AmpOptimWrapper', 'float16'),
    ],
)
def test_precision_by_device(monkeypatch, cuda, bf16, kind, dtype):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: bf16)
    config = Config(dict(optim_wrapper=dict(type=OptimWrapper, optimizer=dict(type='Adam'))))
    use_amp(config)
    assert config.optim_wrapper.type == kind
    assert config.optim_wrapper.get('dtype') == dtype
    assert config.optim_wrapper.optimizer.type == 'Adam'


@pytest.mark.parametrize(('cuda', 'kind'), [(False, CPUAmpOptimWrapper), (True, AmpOptimWrapper)])
def test_dumped_config_can_be_loaded(monkeypatch, tmp_path, cuda, kind):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda)
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    config = load_config(DEMO)
    use_amp(config)
    config.dump(tmp_path / 'left.py')
    left = load_config(tmp_path / 'left.py')
    assert left.optim_wrapper.type == config.optim_wrapper.type
    assert OPTIM_WRAPPERS.get(left.optim_wrapper.type) is kind


@pytest.mark.parametrize('fast', [False, True])
def test_amp_warns_if_it_is_not_faster(monkeypatch, fast):
    logged = []
    monkeypatch.setattr(runs, 'print_log', lambda message, **_: logged.append(message))
    monkeypatch.setattr(runs, 'has_fast_bf16', lambda: fast)
    use_amp(load_config(DEMO))
    assert ['not faster' in message for message in logged] == [True] * (not fast)


def test_amp_with_another_optimizer_wrapper_raises():
    with pytest.raises(ValueError, match='--amp requires OptimWrapper, but the config has Mine'):
        use_amp(Config(dict(optim_wrapper=dict(type='Mine'))))


@pytest.mark.parametrize(
    ('cuda', 'bf16', 'kind'),
    [
        (True, False, AmpOptimWrapper),
        (False, True, CPUAmpOptimWrapper),
        (False, False, OptimWrapper),
    ],
)
@pytest.mark.parametrize('optimizer', [None, 'SGD'])
def test_fast_settings_depend_on_the_device(monkeypatch, tmp_path, cuda, bf16, kind, optimizer):
    config = load_config(DEMO)
    if optimizer is not None:  # Adam, by its class
        config.optim_wrapper.optimizer.type = optimizer
    hooks = list(config.custom_hooks)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, 'is_available', lambda: cuda)
        patch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
        patch.setattr(runs, 'has_fast_bf16', lambda: bf16)
        use_fast(config)
    config.dump(tmp_path / 'left.py')
    for one in (config, load_config(tmp_path / 'left.py')):
        found = one.optim_wrapper.get('type', OptimWrapper)
        assert (OPTIM_WRAPPERS.get(found) if isinstance(found, str) else found) is kind
        assert one.optim_wrapper.optimizer.fused is True
        assert HOOKS.get(one.custom_hooks[-1].type) is ChannelsLastHook
    assert config.custom_hooks[:-1] == hooks


def test_fast_keeps_settings_of_the_config(monkeypatch):
    monkeypatch.setattr(runs, 'has_fast_bf16', lambda: True)
    own = dict(type='Mine', optimizer=dict(type='Adam', fused=False))
    for wrapper in (own, dict(type='Mine', optimizer=dict(type='LBFGS')), dict(type='Mine')):
        config = Config(dict(optim_wrapper=copy.deepcopy(wrapper)))
        use_fast(config)
        assert config.optim_wrapper.to_dict() == wrapper
        assert config.custom_hooks == [dict(type='mmkdml.ChannelsLastHook')]


def test_image_cache_of_all_data_sets():
    config = load_config(DEMO)
    config.test_dataloader = None
    config.val_dataloader.dataset.image_cache = dict(dir='elsewhere', limit=2)
    use_image_cache(config, IMAGE_CACHE)
    assert config.train_dataloader.dataset.image_cache == dict(dir='work_dirs/image_cache')
    assert config.val_dataloader.dataset.image_cache == dict(dir='work_dirs/image_cache', limit=2)


@pytest.mark.parametrize('named', ['CustomDataset', 'mmpretrain.CustomDataset', CustomDataset])
def test_image_cache_of_other_data_sets_raises(named):
    config = load_config(DEMO)
    config.val_dataloader.dataset = dict(type=named)
    with pytest.raises(TypeError, match='image cache: expected .* got .*CustomDataset'):
        use_image_cache(config, 'cache')


def test_data_sets_may_be_named(tmp_path):
    config = load_config(DEMO)
    config.train_dataloader.dataset.type = 'mmkdml.LGGDataset'
    use_image_cache(config, tmp_path)
    assert config.train_dataloader.dataset.image_cache == dict(dir=str(tmp_path))


def test_logs_are_added_once_to_those_of_the_config(monkeypatch):
    monkeypatch.setattr(
        optional.importlib.util, 'find_spec', lambda name: None if name == 'mlflow' else name
    )
    for config in (load_config(DEMO), Config({})):
        for _ in range(2):
            use_logs(config, ['tensorboard', 'wandb', 'wandb'])
        first, *added = [VISBACKENDS.get(str(one.type)) or one.type for one in backends(config)]
        assert first is StrictJsonVisBackend
        assert added == [TensorboardLog, WandbLog]
    with pytest.raises(ValueError, match=r"--log mlflow: mlflow .*pip install 'mmkdml\[logging\]'"):
        use_logs(config, ['mlflow'])
    with pytest.raises(ValueError, match='expected some of tensorboard.* got x'):
        use_logs(config, ['x'])


def backends(config):
    return config.visualizer.vis_backends


@pytest.fixture
def built(monkeypatch):
    """Collect the configs from which runners are built."""
    configs = []

    def from_cfg(config):
        configs.append(config)
        hooks = []
        return SimpleNamespace(hooks=hooks, register_hook=lambda hook, **_: hooks.append(hook))

    monkeypatch.setattr(Runner, 'from_cfg', from_cfg)
    monkeypatch.setattr(runs, 'init_dist', lambda *args, **kwargs: None)  # no MPI here
    return configs


def test_runner_loads_only_weights_and_sets_the_launcher(built):
    runner = make_runner(Config(dict(a=1)), 'mpi')
    assert os.environ['TORCH_FORCE_WEIGHTS_ONLY_LOAD'] == '1'
    assert built[0].launcher == 'mpi'
    assert {SafeResumeHook, StrictWeightsHook, WatchLoadersHook} < {*map(type, runner.hooks)}


@pytest.mark.parametrize('own', [False, True])
def test_weights_of_transfers_are_set_once(monkeypatch, built, own):
    if own:
        original = Runner.from_cfg

        def with_hook(config):
            runner = original(config)
            runner.register_hook(TransferWeightHook())
            return runner

        monkeypatch.setattr(Runner, 'from_cfg', with_hook)
    runner = make_runner(Config(dict(a=1)), 'mpi')
    assert sum(isinstance(hook, TransferWeightHook) for hook in runner.hooks) == 1


def test_processes_share_buffers_unless_the_config_has_its_own_wrapper(built):
    for own in ({}, dict(find_unused_parameters=True), dict(model_wrapper_cfg=dict(type='Mine'))):
        make_runner(Config(own), 'mpi')
    assert [config.model_wrapper_cfg for config in built] == [
        dict(
            type='MMDistributedDataParallel', broadcast_buffers=True, find_unused_parameters=unused
        )
        for unused in (False, True)
    ] + [dict(type='Mine')]
    make_runner(Config({}))
    assert 'model_wrapper_cfg' not in built[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
def test_processes_without_a_gpu_use_gloo_with_the_same_timeout(monkeypatch, built):
    groups = []
    monkeypatch.setattr(
        torch.distributed,
        'init_process_group',
        lambda *args, **kwargs: groups.append((args, kwargs)),
    )
    make_runner(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=90)))), 'pytorch')
    make_runner(Config(dict(model_wrapper_cfg=dict(type='Mine'))), 'pytorch')
    monkeypatch.setattr(runs, 'set_slurm_environment', lambda: groups.append('slurm'))
    make_runner(Config({}), 'slurm')
    assert groups == [
        (('gloo',), dict(timeout=timedelta(seconds=90))),
        (('gloo',), dict(timeout=None)),
        'slurm',
        (('gloo',), dict(timeout=None)),
    ]
    assert built[1].model_wrapper_cfg == dict(type='Mine', device_ids=None)


def save(path, epoch=0, iteration=0):
    torch.save(dict(state_dict={}, meta=dict(epoch=epoch, iter=iteration)), path)


def test_resume_finds_the_newest_valid_checkpoint(built, tmp_path):
    config = dict(resume=True, work_dir=str(tmp_path), load_from=None)
    for epoch in (2, 9, 10):
        save(tmp_path / f'epoch_{epoch}.pth', epoch, 4 * epoch)
    (tmp_path / 'last_checkpoint').write_text('elsewhere')
    make_runner(Config(config))
    assert (built[-1].resume, built[-1].load_from) == (True, str(tmp_path / 'epoch_10.pth'))
    (tmp_path / 'epoch_10.pth').write_bytes(b'')
    *_, hook = make_runner(Config(config)).hooks
    assert built[-1].load_from == str(tmp_path / 'epoch_9.pth')
    notes = '\n'.join(note for _, note in hook.notes)
    assert 'epoch_10.pth is not a valid checkpoint' in notes
    assert 'epoch_10.pth is skipped' in notes
    for path in tmp_path.glob('epoch_*.pth'):
        path.write_bytes(b'broken')
    (tmp_path / 'best_x_epoch_2.pth').write_bytes(b'intact or not')
    with pytest.raises(ValueError, match='No checkpoint in .* can be resumed') as refused:
        make_runner(Config(config))
    for name in ('epoch_2', 'epoch_9', 'epoch_10'):
        assert f'{name}.pth is not a valid checkpoint' in str(refused.value)
    assert 'best_x_epoch_2.pth contains only weights' in str(refused.value)
    assert len(built) == 2


def test_named_checkpoint_is_used(built, tmp_path):
    save(tmp_path / 'epoch_2.pth', 2, 8)
    broken = tmp_path / 'epoch_3.pth'
    broken.write_bytes(b'broken')
    config = dict(resume=True, work_dir=str(tmp_path), load_from=str(broken))
    with pytest.raises(ValueError, match='epoch_3.pth is not a valid checkpoint'):
        make_runner(Config(config))
    assert built == []


def test_use_deterministic(monkeypatch):
    monkeypatch.delenv('CUBLAS_WORKSPACE_CONFIG', raising=False)
    config = Config(dict(randomness=dict(seed=3)))
    use_deterministic(config)
    assert config.randomness == dict(seed=3, deterministic=True)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':4096:8'
    monkeypatch.setenv('CUBLAS_WORKSPACE_CONFIG', ':16:8')
    use_deterministic(config)
    assert os.environ['CUBLAS_WORKSPACE_CONFIG'] == ':16:8'


def test_resume_without_checkpoints_starts_a_new_run(built, tmp_path):
    *_, hook = make_runner(Config(dict(resume=True, work_dir=str(tmp_path)))).hooks
    assert (built[0].resume, built[0].get('load_from')) == (False, None)
    ((level, note),) = hook.notes
    assert (level, str(tmp_path) in note) == (logging.INFO, True)


def stub_runner(model):
    logger = logging.getLogger('stub')
    return SimpleNamespace(
        cfg=Config(), model=model, logger=logger, _has_loaded=False, test_loop=None
    )


def test_weights_with_another_class_order_raise(tmp_path):
    model = torch.nn.Linear(2, 1)
    meta = dict(dataset_meta=dict(classes=('benign', 'malignant')))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), tmp_path / 'best_x.pth')
    runner = stub_runner(model)
    for order in (('benign', 'malignant'), ('malignant', 'benign')):
        data = SimpleNamespace(metainfo=dict(classes=order))
        runner.test_loop, runner.test_dataloader = object(), SimpleNamespace(dataset=data)
        if order == ('benign', 'malignant'):
            load_weights(runner, tmp_path)
        else:
            with pytest.raises(ValueError, match=r'class order.*benign.*malignant.*best_x\.pth'):
                load_weights(runner, tmp_path)


def test_weights_are_checked_before_they_are_loaded(tmp_path):
    runner = stub_runner(torch.nn.Linear(2, 1))
    file = tmp_path / 'best_x.pth'
    file.write_bytes(b'broken')
    with pytest.raises(ValueError, match='best_x.pth is not a valid checkpoint'):
        load_weights(runner, tmp_path)
    assert not runner._has_loaded
    weights = torch.nn.Linear(2, 1).state_dict()
    torch.save({f'module.{key}': value for key, value in weights.items()}, file)  # of a wrapper
    load_weights(runner, tmp_path)
    assert runner._has_loaded  # so that runner.test() loads nothing else
    assert all(torch.equal(weights[key], runner.model.state_dict()[key]) for key in weights)


@pytest.mark.parametrize(
    ('weights', 'message'),
    [
        ({'weight': torch.zeros(1, 2)}, r'missing: bias\)$'),
        ({'weight': torch.zeros(1, 2), 'bias': torch.tensor([torch.nan])}, 'bias: 1 NaN and 0 inf'),
    ],
)
def test_weights_that_do_not_fit_raise(tmp_path, weights, message):
    torch.save(weights, tmp_path / 'b.pth')
    runner = stub_runner(torch.nn.Linear(2, 1))
    before = copy.deepcopy(runner.model.state_dict())
    with pytest.raises(ValueError, match=rf'b.pth.*model.*\({message}'):
        load_weights(runner, tmp_path / 'b.pth')
    assert all(torch.equal(before[key], runner.model.state_dict()[key]) for key in before)
