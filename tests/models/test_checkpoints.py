import hashlib
import os
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from mmengine.dataset import DefaultSampler
from mmengine.logging import HistoryBuffer
from mmengine.runner import Runner
from mmpretrain.models import (
    ClsDataPreprocessor,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    ResNet,
)
from mmpretrain.structures import DataSample
from safetensors.torch import save_file
from torch import nn

from mmkdml.files import file_sha256
from mmkdml.models.checkpoints import (
    load_checkpoint_file,
    load_network,
    member_weights,
    resolve_checkpoint,
)


def network(num_classes=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4), fc=nn.Linear(4, num_classes))
    )


def same(weights, module):
    expected = module.state_dict()
    return weights.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in weights.items()
    )


def classroom(**members):
    weights = {
        f'members.{name}.{key}': value
        for name, member in members.items()
        for key, value in member.state_dict().items()
    }
    return dict(
        state_dict=dict(
            weights,
            frozen_members=torch.zeros(3, dtype=torch.uint8),
            **{'transfer_modules.0.weight': torch.zeros(1)},
        )
    )


@pytest.fixture
def save(tmp_path):
    def save(content, name='weights.pth'):
        torch.save(content, tmp_path / name)
        return tmp_path / name

    return save


@pytest.mark.parametrize(
    'wrap',
    [
        lambda module: module.state_dict(),
        lambda module: dict(state_dict=module.state_dict(), meta=dict(epoch=3)),
        lambda module: classroom(teacher=module, student_1=network(seed=5)),
    ],
    ids=['plain', 'framework', 'classroom'],
)
@pytest.mark.parametrize('as_text', [False, True])
def test_load_network(save, wrap, as_text):
    source, member = network(seed=1), network(seed=2)
    path = save(wrap(source))
    load_network(member, str(path) if as_text else path, 'teacher')
    assert same(source.state_dict(), member)


def test_members_load_their_weights_of_a_classroom(save):
    students = dict(student_1=network(seed=1), student_10=network(seed=2))
    path = save(classroom(**students))
    for name, student in students.items():
        member = network(seed=3)
        load_network(member, path, name)
        assert same(student.state_dict(), member)


def test_missing_member_raises(save):
    path = save(classroom(student_1=network(), student_2=network()))
    with pytest.raises(
        ValueError,
        match=(
            r"weights\.pth has no weights of 'teacher': .* student_1, student_2 \(frozen members"
        ),
    ):
        load_network(network(), path, 'teacher')


def test_member_weights_does_not_modify_its_input():
    checkpoint = classroom(teacher=network())
    keys = list(checkpoint['state_dict'])
    member_weights(checkpoint, 'teacher', 'file')
    plain = network().state_dict()
    member_weights(plain, 'teacher', 'file').clear()
    assert list(checkpoint['state_dict']) == keys
    assert plain


def without(key):
    return lambda weights: {k: value for k, value in weights.items() if k != key}


def with_(**entries):
    return lambda weights: dict(weights, **entries)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (without('fc.bias'), r'missing: fc\.bias'),
        (with_(extra=torch.zeros(1)), r'unexpected: extra'),
        (
            lambda weights: network(num_classes=7).state_dict(),
            r'was trained with \(fc\.weight: expected shape \(2, 4\), got \(7, 4\)'
            r'; fc\.bias: expected shape \(2,\), got \(7,\)\)$',
        ),
        (
            lambda weights: {f'backbone.{key}': value for key, value in weights.items()},
            r'\(missing: conv\.weight; .* and \d+ more\)$',
        ),
    ],
)
def test_misfits_raise_and_nothing_is_loaded(save, change, message):
    path = save(change(network(seed=1).state_dict()))
    member = network(seed=2)
    with pytest.raises(
        ValueError, match=(r'weights\.pth does not fit the teacher \(Sequential\)')
    ) as error:
        load_network(member, path, 'teacher')
    assert error.match(message)
    assert same(network(seed=2).state_dict(), member)


def test_checkpoint_of_an_mmengine_run_is_loaded(tmp_path):
    model = dict(
        type=ImageClassifier,
        data_preprocessor=dict(type=ClsDataPreprocessor),
        backbone=dict(type=ResNet, depth=18, base_channels=4, stem_channels=4),
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=LinearClsHead, num_classes=2, in_channels=32),
    )
    images = [
        dict(
            inputs=torch.randint(256, (3, 32, 32), dtype=torch.uint8),
            data_samples=DataSample().set_gt_label(label),
        )
        for label in (0, 1)
    ]
    runner = Runner(
        model=model,
        work_dir=str(tmp_path),
        experiment_name='one_step',
        default_scope=None,
        train_dataloader=dict(
            dataset=images,
            batch_size=2,
            sampler=dict(type=DefaultSampler, shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=1),
        optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.1)),
        param_scheduler=dict(type='LinearLR', by_epoch=False, start_factor=0.5),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1),
            logger=dict(type='LoggerHook', interval=1),
        ),
    )
    runner.train()
    checkpoint = load_checkpoint_file(tmp_path)
    assert {'optimizer', 'message_hub', 'param_schedulers'} <= checkpoint.keys()
    assert isinstance(checkpoint['message_hub']['log_scalars']['train/loss'], HistoryBuffer)
    member = ImageClassifier(**{key: value for key, value in model.items() if key != 'type'})
    load_network(member, tmp_path, 'teacher')
    assert same(runner.model.state_dict(), member)


def test_numpy_scalars_in_the_log_are_read(save):
    log = dict(loss=HistoryBuffer([0.5, 0.25], [1, 1]), best=np.float64(0.75), step=np.int64(3))
    checkpoint = load_checkpoint_file(save(dict(state_dict={}, message_hub=log)))
    assert checkpoint['message_hub']['loss'].data[0].tolist() == [0.5, 0.25]
    assert checkpoint['message_hub']['best'] == 0.75
    assert checkpoint['message_hub']['step'] == 3


class Reduced:
    """Object that is pickled as a function call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('function', [os.mkdir, eval])
def test_code_in_a_file_does_not_run(save, tmp_path, function):
    trace = tmp_path / 'executed'
    argument = str(trace) if function is os.mkdir else f'__import__("os").mkdir({str(trace)!r})'
    path = save(dict(state_dict=network().state_dict(), meta=Reduced(function, argument)))
    with pytest.raises(ValueError, match=r'weights\.pth is not a valid checkpoint'):
        load_network(network(), path, 'teacher')
    assert not trace.exists()


def test_getattr_in_a_file_raises(save):
    for owner, name in ((HistoryBuffer, 'register_statistics'), (np.ndarray, 'max')):
        path = save(dict(meta=Reduced(getattr, owner, name)))
        with pytest.raises(ValueError, match=rf'a valid checkpoint: it calls .*getattr.*{name}'):
            load_checkpoint_file(path)


@pytest.mark.parametrize(('function', 'name'), [(os.system, 'system'), (eval, 'eval')])
def test_messages_do_not_recommend_unsafe_loading(save, function, name):
    """PyTorch's message recommends it."""
    path = save(dict(meta=Reduced(function, '1')))
    message = rf'valid checkpoint: [^.]*GLOBAL [\w.]*{name}[^.]*\. It may be .* than weights$'
    with pytest.raises(ValueError, match=message) as raised:
        load_checkpoint_file(path)
    assert 'weights_only' not in str(raised.value)


def test_other_loaders_are_unchanged(save):
    before = set(torch.serialization.get_safe_globals())
    load_checkpoint_file(save(dict(a=torch.zeros(1))))
    assert set(torch.serialization.get_safe_globals()) == before


@pytest.mark.parametrize('content', [b'id,label\n1,0\n', b'', b'PK\x03\x04'])
def test_file_of_another_kind_raises(tmp_path, content):
    path = tmp_path / 'labels.csv'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'labels\.csv is not a valid checkpoint'):
        load_checkpoint_file(path)


def test_truncated_file_raises(save):
    path = save(network().state_dict())
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(
        ValueError, match=r'weights\.pth is not a valid checkpoint: the archive is truncated'
    ):
        load_checkpoint_file(path)


def test_file_truncated_anywhere_raises(save):
    path = save(network().state_dict())
    file_bytes = path.read_bytes()
    for size in np.random.default_rng(0).integers(len(file_bytes), size=20):
        path.write_bytes(file_bytes[:size])
        with pytest.raises(ValueError, match=r'weights\.pth is not a valid checkpoint'):
            load_checkpoint_file(path)


def test_flipped_bit_raises(save):
    weights = network().state_dict()
    path = save(weights)
    file_bytes, refused = path.read_bytes(), 0
    inside = file_bytes.find(next(iter(weights.values())).numpy().tobytes())
    assert inside > 0
    places = np.random.default_rng(0).integers(len(file_bytes), size=100).tolist()
    for place in places:
        path.write_bytes(
            file_bytes[:place] + bytes([file_bytes[place] ^ 4]) + file_bytes[place + 1 :]
        )
        try:
            loaded = load_checkpoint_file(path)
        except ValueError:
            refused += 1
            continue
        # The bit was in the padding of the file.
        assert loaded.keys() == weights.keys()
        assert all(torch.equal(loaded[key], value) for key, value in weights.items())
    assert refused > 50
    path.write_bytes(
        file_bytes[:inside] + bytes([file_bytes[inside] ^ 4]) + file_bytes[inside + 1 :]
    )
    with pytest.raises(
        ValueError, match=r'weights\.pth is not a valid checkpoint: wrong checksum of part \S+\.'
    ):
        load_checkpoint_file(path)


@pytest.mark.parametrize(('content', 'kind'), [([torch.zeros(1)], 'list'), (3, 'int')])
def test_content_without_keys_raises(save, content, kind):
    with pytest.raises(ValueError, match=rf'weights\.pth is not a valid checkpoint: .*got {kind}'):
        load_checkpoint_file(save(content))


def test_safetensors(tmp_path):
    source, path = network(seed=1), tmp_path / 'weights.safetensors'
    save_file(source.state_dict(), path, dict(classes='["a", "b"]', format='pt'))
    checkpoint = load_checkpoint_file(path)
    assert same(checkpoint['state_dict'], source)
    assert checkpoint['meta'] == dict(dataset_meta=dict(classes=['a', 'b']))
    target = network(seed=2)
    load_network(target, path, 'model')
    assert same(target.state_dict(), source)
    save_file(source.state_dict(), path)
    assert load_checkpoint_file(path)['meta'] == dict(dataset_meta={})
    save_file(source.state_dict(), path, dict(classes='no JSON'))
    with pytest.raises(ValueError, match=r'weights\.safetensors is not a valid checkpoint'):
        load_checkpoint_file(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r'weights\.safetensors is not .*It may be truncated'):
        load_checkpoint_file(path)


def test_sha256(tmp_path):
    content = os.urandom((1 << 20) + 17)  # more than one block
    (tmp_path / 'file').write_bytes(content)
    assert file_sha256(tmp_path / 'file') == hashlib.sha256(content).hexdigest()


def touch(path, time=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'')
    os.utime(path, (time, time))
    return path


def test_path_of_a_file_is_returned(tmp_path):
    file = touch(tmp_path / 'iter_1.pth')
    assert resolve_checkpoint(str(file)) == file


def save_best(folder, metric, epoch, time, scores, rules):
    """Save the best checkpoint of ``metric`` with the scores of all metrics."""
    several = len(scores) > 1
    info = {}
    for name, (score, its_epoch) in scores.items():
        suffix = f'_{name}' if several else ''
        info[f'best_score{suffix}'] = score
        info[f'best_ckpt{suffix}'] = f'/of/old/best_{name.replace("/", "_")}_epoch_{its_epoch}.pth'
    if rules:
        info['best_rules'] = rules
    path = folder / f'best_{metric.replace("/", "_")}_epoch_{epoch}.pth'
    torch.save(
        dict(state_dict={}, meta=dict(iter=epoch), message_hub=dict(runtime_info=info)), path
    )
    os.utime(path, (time, time))
    return path


@pytest.mark.parametrize('rule', ['greater', 'less'])
@pytest.mark.parametrize('newest', [2, 10])
def test_best_checkpoint_has_the_best_recorded_score(tmp_path, rule, newest):
    paths = {
        epoch: save_best(
            tmp_path, 'a/IoU', epoch, 100 + (epoch == newest), {'a/IoU': (score, epoch)},
            {'a/IoU': rule},
        )
        for epoch, score in ((2, 80.5), (10, 70.25))
    }  # fmt: skip
    last = touch(tmp_path / 'epoch_12.pth', time=300)
    (tmp_path / 'last_checkpoint').write_text(str(last))
    assert resolve_checkpoint(tmp_path) == paths[2 if rule == 'greater' else 10]


@pytest.mark.parametrize(
    ('metric', 'best'),
    [('mIoU', 2), ('val_loss', 10), ('ECE', 10)],  # ECE: unknown to mmengine, so the later one
)
def test_rule_is_inferred_for_runs_of_mmengine(tmp_path, metric, best):
    paths = {
        epoch: save_best(tmp_path, metric, epoch, -epoch, {metric: (score, epoch)}, None)
        for epoch, score in ((2, 80.5), (10, 70.25))
    }
    assert resolve_checkpoint(tmp_path) == paths[best]


@pytest.mark.parametrize('with_rules', [False, True])
@pytest.mark.parametrize('newest', ['mIoU', 'loss'])
def test_first_of_several_metrics_counts(tmp_path, with_rules, newest):
    rules = dict(mIoU='greater', loss='less') if with_rules else None
    at = {metric: 100 + (metric == newest) for metric in ('mIoU', 'loss')}
    best = save_best(tmp_path, 'mIoU', 3, at['mIoU'], dict(mIoU=(0.8, 3), loss=(0.5, 2)), rules)
    save_best(tmp_path, 'loss', 5, at['loss'], dict(mIoU=(0.8, 3), loss=(0.4, 5)), rules)
    assert resolve_checkpoint(tmp_path) == best


@pytest.mark.parametrize('odd', [None, 'text', float('nan'), torch.zeros(1)])
def test_several_best_checkpoints_without_a_score_raise(tmp_path, odd):
    save_best(tmp_path, 'mIoU', 2, 0, dict(mIoU=(0.5, 2)), None)
    save_best(tmp_path, 'mIoU', 3, 0, dict(mIoU=(odd, 3)), None)
    with pytest.raises(ValueError, match=r'several best_.*best_mIoU_epoch_3\.pth has no recorded'):
        resolve_checkpoint(tmp_path)


def test_only_best_checkpoint_needs_no_score(tmp_path):
    best = touch(tmp_path / 'best_x.pth')
    (tmp_path / 'best_folder.pth').mkdir()
    assert resolve_checkpoint(tmp_path) == best


def test_last_checkpoint_of_a_run_without_a_best_one(tmp_path):
    last = touch(tmp_path / 'elsewhere' / 'epoch_12.pth')
    (tmp_path / 'last_checkpoint').write_text(f'{last}\n')
    assert resolve_checkpoint(tmp_path) == last


def test_last_checkpoint_of_a_moved_run(tmp_path):
    last = touch(tmp_path / 'epoch_12.pth')
    (tmp_path / 'last_checkpoint').write_text('/of/old/epoch_12.pth')
    assert resolve_checkpoint(tmp_path) == last


def test_last_checkpoint_of_a_copied_run(tmp_path):
    other, last = (touch(tmp_path / run / 'epoch_12.pth') for run in ('other', 'copy'))
    (tmp_path / 'copy' / 'last_checkpoint').write_text(str(other))
    assert resolve_checkpoint(tmp_path / 'copy') == last


@pytest.mark.parametrize('record', [None, '', '/of/old/epoch_12.pth'])
def test_folder_without_a_checkpoint_raises(tmp_path, record):
    run = tmp_path / 'run'
    run.mkdir()
    if record is not None:
        (run / 'last_checkpoint').write_text(record)
    with pytest.raises(
        FileNotFoundError,
        match=(rf'no checkpoint at {re.escape(str(run))}: .*best_\*\.pth or last_checkpoint'),
    ):
        resolve_checkpoint(run)


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no checkpoint at .*gone\.pth'):
        load_network(network(), tmp_path / 'gone.pth', 'teacher')
