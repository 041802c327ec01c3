import pytest
from mmengine.config import Config
from mmengine.optim import CosineAnnealingLR
from mmseg.models.backbones import ResNetV1c

from mmkdml.apis import load_config
from mmkdml.apis.options import merge_options
from mmkdml.datasets import LGGDataset
from mmkdml.engine import SafeCheckpointHook

TEXT = """
default_scope = {scope!r}
own_variable = 3
model = dict(
    type={prefix}'EncoderDecoder',
    backbone=dict(type='ResNetV1c', depth=18, norm_cfg=dict(type='BN')),
    decode_head=dict(type='FCNHead', in_channels=512, channels=8, num_classes=2),
    test_cfg=dict(mode='whole'),
)
train_cfg = dict(by_epoch=True, max_epochs=2)
train_dataloader = dict(batch_size=2, dataset=dict(type='BaseSegDataset', data_root='x'))
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1))
param_scheduler = [dict(type='PolyLR', power=0.9), dict(type='LinearLR', start_factor=0.1)]
default_hooks = dict(logger=dict(type='LoggerHook', interval=10))
custom_hooks = [dict(type='EMAHook', momentum=0.1)]
env_cfg = dict(cudnn_benchmark=True)
"""


@pytest.fixture(params=['mmseg', None])
def text_config(request, tmp_path):
    """Write a text config, with a default scope or with scopes in its types."""
    path = tmp_path / 'text.py'
    prefix = '' if request.param else "'mmseg.' "
    path.write_text(TEXT.format(scope=request.param, prefix=prefix))
    return path


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'train_dataloder.batch_size': 4}, ['train_dataloder', 'Did you mean train_dataloader']),
        ({'train_cfg.max_epoch': 1}, ['train_cfg.max_epoch', 'Did you mean max_epochs']),
        ({'train_dataloader.batchsize': 1}, ['DataLoader', 'Did you mean batch_size']),
        ({'model.backbon.depth': 50}, ['model.backbon', 'EncoderDecoder', 'mean backbone?']),
        ({'optim_wrapper.clip_gard': 1}, ['OptimWrapper', 'Did you mean clip_grad?']),
        ({'optim_wrapper.optimizer.momentun': 1}, ['(SGD)', 'Did you mean momentum?']),
        ({'default_hooks.logger.intervall': 1}, ['(LoggerHook)', 'Did you mean interval']),
        (
            {'custom_hooks.0.intervall': 1, 'custom_hooks.0.type': 'LoggerHook'},
            ['Did you mean interval'],
        ),
        ({'env_cfg.cudnn_benchmrk': 1}, ['env_cfg.cudnn_benchmrk', 'mean cudnn_benchmark?']),
        ({'randomness.sed': 1}, ['randomness.sed', 'Did you mean seed']),
        ({'model': {'backbon': 1}}, ['model.backbon', 'EncoderDecoder']),
        ({'custom_hooks.1.momentum': 1}, ['custom_hooks.1', 'from 0 to 0']),
        ({'custom_hooks.x.momentum': 1}, ['custom_hooks.x', 'from 0 to 0']),
        ({'custom_hooks.0': 1}, ['custom_hooks.0', 'a key of that item']),
        ({'train_cfg.max_epochs.x': 1}, ['train_cfg.max_epochs', 'got 2']),
        ({'own_variable.x': 1}, ['own_variable.x', 'got 3']),
        ({'train_cfg..max_epochs': 1}, ["'train_cfg..max_epochs'", 'empty part']),
        ({'.train_cfg': 1}, ["'.train_cfg'", 'empty part']),
        ({'': 1}, ["''", 'empty part']),
        ({'train_cfg. max_epochs': 1}, ['empty part or a space']),
        ({'train_cfg': {}, 'train_cfg.max_epochs': 1}, ['train_cfg.max_epochs', 'only one']),
        ({'train_cfg': 1, 'train_cfg.max_epochs': 1}, ['train_cfg.max_epochs', 'only one']),
        ({'train_cfg.max_epochs': 1, 'train_cfg': 1}, ['train_cfg', 'only one']),
    ],
)
def test_options_without_effect_raise(text_config, options, message):
    with pytest.raises(ValueError, match='option') as refused:
        load_config(text_config, options)
    assert all(fact in str(refused.value) for fact in message), refused.value


@pytest.mark.parametrize(
    'options',
    [
        {'model.decode_head.dropout_ratio': 0.3},  # of the class, not in the config
        {'model.backbone.norm_cfg.requires_grad': False},  # taken out before BN is built
        {'model.backbone.norm_cfg.whatever_a_layer_takes': 1},
        {'model.test_cfg.stride': (2, 2)},
        {'train_cfg.dynamic_intervals': [(1, 2)]},
        {'train_cfg.max_iters': 5, 'train_cfg.by_epoch': False},
        {'optim_wrapper.optimizer._delete_': True, 'optim_wrapper.optimizer.type': 'AdamW'},
        {'optim_wrapper.optimizer': {'_delete_': True, 'type': 'AdamW', 'betas': (0.5, 0.9)}},
        {'optim_wrapper.paramwise_cfg.norm_decay_mult': 0},
        {'optim_wrapper.constructor': 'MyConstructor', 'optim_wrapper.generator.lr': 1},
        {'param_scheduler.1.convert_to_iter_based': True, 'param_scheduler.0.end': 4},
        {'default_hooks.ema.type': 'EMAHook', 'default_hooks.ema.momentum': 0.1},
        {'custom_hooks': []},
        {'split_overlap': 'warn'},
        {'custom_hooks.0.priority': 'LOW', 'default_hooks.logger.priority': 'LOW'},
        {'train_dataloader.sampler.type': 'DefaultSampler', 'train_dataloader.drop_last': True},
        {'train_dataloader.dataset.anything': 1, 'train_dataloader.dataset.type': 'Unregistered'},
        {'resume': True, 'load_from': 'x.pth', 'test_pipeline': [], 'tta_model.type': 'X'},
        {'randomness.seed': 1, 'env_cfg.dist_cfg.backend': 'gloo', 'find_unused_parameters': True},
        {
            'visualizer.name': 'x',
            'visualizer.type': 'Visualizer',
            'optim_wrapper.clip_grad.max_norm': 1,
        },
        {'auto_scale_lr.enable': True, 'log_processor.window_size': 3},
    ],
)
def test_options_with_an_effect_are_applied(text_config, options, capsys):
    config = load_config(text_config, options)
    for key, value in options.items():
        node = config
        for part in key.split('.'):
            if part == '_delete_':
                break
            node = node[int(part) if part.isdigit() else part]
        else:
            expected = dict(value) if isinstance(value, dict) else value
            if isinstance(value, dict):
                expected.pop('_delete_')
            assert node == expected
    assert capsys.readouterr().err == ''


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        # Classes that pass **kwargs on to their base classes.
        ({'hook.intervall': 1}, ['SafeCheckpointHook', 'Did you mean interval']),
        ({'schedule.T_mx': 1}, ['CosineAnnealingLR', 'Did you mean T_max']),
        ({'data.ann_fil': 'x'}, ['LGGDataset', 'Did you mean ann_file']),
        ({'backbone.dept': 50}, ['ResNetV1c', 'Did you mean depth']),
        # Any key is accepted unless it is similar to a known one.
        ({'groups.techer.depth': 1}, ['groups.techer', 'Did you mean teacher?', 'as a whole']),
    ],
)
def test_keys_of_inner_dicts(options, message):
    config = Config(
        dict(
            model=dict(
                hook=dict(type=SafeCheckpointHook),
                schedule=dict(type=CosineAnnealingLR),
                data=dict(type=LGGDataset),
                backbone=dict(type=ResNetV1c),
                groups=dict(teacher=dict(depth=2)),
            )
        )
    )
    ((key, value),) = options.items()
    with pytest.raises(ValueError, match='Unknown option') as refused:
        merge_options(config, {f'model.{key}': value})
    assert all(fact in str(refused.value) for fact in message), refused.value
    merge_options(config, {'model.groups.expert.depth': 1})


@pytest.mark.parametrize(
    'path', ['param_scheduler', 'val_evaluator', 'test_dataloader.dataset', 'default_hooks.ema']
)
def test_settings_of_a_missing_part_raise(text_config, path):
    with pytest.raises(ValueError, match=rf'{path}\.T_max: .*Set {path}\.type'):
        merge_options(Config(dict(train_cfg={})), {f'{path}.T_max': 1})
    merge_options(Config(dict(train_cfg={})), {f'{path}.T_max': 1, f'{path}.type': 'Unknown'})


def test_variables_of_a_config_file_raise_with_the_settings_to_change(text_config):
    with pytest.raises(ValueError, match='own_variable: it is a variable .*Change the config file'):
        load_config(text_config, {'own_variable': 4})
    config = Config(
        dict(
            root='x',
            other=['x'],
            train_dataloader=dict(dataset=dict(data_root='x', ann_file='y')),
            val_evaluator=[dict(type='Metric', root='x')],
        )
    )
    with pytest.raises(ValueError, match='root: it is a variable') as refused:
        merge_options(config, {'root': 'z'})
    assert str(refused.value).endswith(
        'such as train_dataloader.dataset.data_root val_evaluator.0.root'
    )


def test_invalid_options_leave_the_config_unchanged():
    config = Config(dict(train_cfg=dict(max_epochs=1)))
    with pytest.raises(ValueError, match='train_cfgs'):
        merge_options(config, {'train_cfg.max_epochs': 3, 'train_cfgs.x': 1})
    assert config.to_dict() == dict(train_cfg=dict(max_epochs=1))
