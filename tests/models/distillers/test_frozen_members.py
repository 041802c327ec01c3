import copy
import json

import pytest
import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmkdml.files import file_sha256
from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.distillers import frozen_members
from mmkdml.models.distillers.frozen_members import FrozenMembers


@pytest.fixture
def frozen_pair(task, tmp_path):
    """Student with a frozen teacher that has dropout and was loaded from a file."""
    config = task.teacher()
    if task.name == 'segmentation':
        config['decode_head']['dropout_ratio'] = 0.5
    teacher = MODELS.build(config)
    if task.name == 'classification':
        teacher.neck.conv_block.add_module('dropout', nn.Dropout(0.5))
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=teacher.state_dict(), meta={}), path)
    fresh = MODELS.build(config)
    return (
        KnowledgeDistiller(
            members=dict(teacher=fresh, student=task.student()),
            transfers=[
                Transfer('teacher', 'student', kind, 1.0) for kind in ('predictions', 'features')
            ],
            frozen=dict(teacher=str(path)),
            input_size=(32, 32),
        ),
        teacher,
        path,
    )


def test_frozen_teacher_stays_bit_identical(frozen_pair, task, tiny):
    distiller, teacher, _ = frozen_pair
    assert all(
        torch.equal(value, teacher.state_dict()[key])
        for key, value in distiller.named_members()['teacher'].state_dict().items()
    )
    modes = []
    frozen = distiller.named_members()['teacher']
    frozen.backbone.register_forward_hook(
        lambda *call: modes.append(
            (torch.is_inference_mode_enabled(), any(m.training for m in frozen.modules()))
        )
    )
    tiny.train(distiller, [task.batch()] * 3)
    assert modes == [(True, False)] * 3
    assert all(
        torch.equal(value, teacher.state_dict()[key]) for key, value in frozen.state_dict().items()
    )


def test_frozen_teacher_is_not_optimized_saved_or_initialized(frozen_pair):
    distiller, teacher, _ = frozen_pair
    ids = {id(p) for p in distiller.parameters()}
    frozen = distiller.named_members()['teacher']
    assert not any(id(p) in ids for p in frozen.parameters())
    assert not any(p.requires_grad for p in frozen.parameters())
    assert not any('teacher' in key for key in distiller.state_dict())
    distiller.init_weights()
    assert all(
        torch.equal(value, teacher.state_dict()[key]) for key, value in frozen.state_dict().items()
    )


def test_frozen_members_are_cast_and_copied(frozen_pair, task):
    distiller, _, _ = frozen_pair
    distiller.double()
    assert {p.dtype for p in distiller.named_members()['teacher'].parameters()} == {torch.float64}
    twin = copy.deepcopy(distiller).eval()
    inputs, samples = task.batch()
    first = distiller.eval()(inputs.double(), samples, mode='loss')
    second = twin(inputs.double(), samples, mode='loss')
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_resuming_with_another_teacher_raises(frozen_pair, tmp_path):
    distiller, teacher, path = frozen_pair
    state = distiller.state_dict()
    record = bytes(state['frozen_members'].tolist()).decode()
    assert file_sha256(path) in record
    assert str(path) in record
    distiller.load_state_dict(state)

    with torch.no_grad():
        next(teacher.parameters()).add_(1)
    torch.save(teacher.state_dict(), path)
    other = KnowledgeDistiller(
        members={name: copy.deepcopy(m) for name, m in distiller.named_members().items()},
        transfers=distiller.transfers,
        frozen=dict(teacher=str(path)),
        input_size=(32, 32),
    )
    with pytest.raises(ValueError, match='frozen teacher.*trained with.*SHA-256'):
        other.load_state_dict(state)


def test_frozen_learner_or_weight_raises(task, tiny):
    with pytest.raises(ValueError, match='supervised_weights .* frozen teacher'):
        tiny.pair(task, [], frozen=dict(teacher=None), supervised_weights=dict(teacher=1.0))
    with pytest.raises(ValueError, match='teacher -> student.*frozen student'):
        tiny.pair(task, [('features', 1.0)], frozen=dict(student=None))


@pytest.mark.parametrize('how', ['missing', 'classes', 'keys'])
def test_invalid_teacher_checkpoint_raises(tiny, tmp_path, how):
    path = tmp_path / 'teacher.pth'
    other = MODELS.build(tiny.classifier(num_classes=7))
    state = other.state_dict()
    if how == 'keys':
        state = {f'model.{key}': value for key, value in state.items()}
    if how != 'missing':
        torch.save(state, path)
    error, message = {
        'missing': (FileNotFoundError, 'teacher.pth'),
        'classes': (ValueError, r'head.fc.weight: expected shape \(3, 32\), got \(7, 32\)'),
        'keys': (ValueError, 'missing: backbone.conv1.weight'),
    }[how]
    with pytest.raises(error, match=message):
        KnowledgeDistiller(
            members=dict(teacher=tiny.classifier(), student=tiny.classifier()),
            transfers=[Transfer('teacher', 'student', 'predictions', 1.0)],
            frozen=dict(teacher=str(path)),
            input_size=tiny.size,
        )


def test_copies_share_frozen_members_until_one_is_cast(frozen_pair):
    distiller, teacher, _ = frozen_pair
    twin = copy.deepcopy(distiller)
    frozen = distiller.named_members()['teacher']
    assert twin.named_members()['teacher'] is frozen
    assert twin.members.student is not distiller.members.student
    twin.double()
    assert {p.dtype for p in frozen.parameters()} == {torch.float32}
    assert {p.dtype for p in twin.named_members()['teacher'].parameters()} == {torch.float64}
    distiller.double()
    torch.testing.assert_close(
        *(dict(one.named_members()['teacher'].state_dict()) for one in (distiller, twin))
    )
    assert distiller.named_members()['teacher'] is not twin.named_members()['teacher']


@pytest.mark.parametrize('finished', [False, True])
def test_teacher_of_an_unfinished_run_is_reported(finished, tiny, tmp_path, monkeypatch):
    config = tiny.classifier()
    file = tmp_path / 'epoch_2.pth'
    weights = MODELS.build(config).state_dict()
    torch.save(dict(state_dict=weights, meta=dict(epoch=2, iter=40)), file)
    (tmp_path / 'last_checkpoint').write_text(str(file))
    identity = dict(finished=dict(epoch=2, iter=40)) if finished else {}
    (tmp_path / 'identity.json').write_text(json.dumps(identity))
    logged = []
    monkeypatch.setattr(frozen_members, 'print_log', lambda text, **_: logged.append(text))
    for path in (file, tmp_path):  # a named file was chosen deliberately
        assert not logged
        FrozenMembers(
            dict(teacher=MODELS.build(config)), dict(teacher=str(path)), dict(teacher=config)
        )
    assert len(logged) == (not finished)
    assert all(f'{file} (epoch 2, iteration 40), but' in text for text in logged)


class _Whole(nn.Module):
    """Stub of DistributedDataParallel, which supports SyncBatchNorm only on GPUs."""

    def __init__(self, module):
        super().__init__()
        self.module = module


def test_batch_norm_is_synchronized_except_in_the_frozen_teacher(
    tiny, tmp_path, monkeypatch, all_forked
):
    """With ``sync_bn='torch'``, which includes the batch norms of losses."""

    def check():
        monkeypatch.setenv('LOCAL_RANK', '0')
        dist.init_process_group(
            'gloo', init_method=f'file://{tmp_path / "store"}', rank=0, world_size=1
        )
        distiller = tiny.compared('semckd_classification')
        runner = Runner(
            model=distiller,
            work_dir=str(tmp_path),
            launcher='pytorch',
            cfg=dict(sync_bn='torch', model_wrapper_cfg=dict(type=_Whole)),
            experiment_name='sync_bn',
        )
        assert runner.model.module is distiller
        for module in (distiller.members.student, distiller.transfer_terms[-1].loss):
            found = {type(part) for part in module.modules() if isinstance(part, _BatchNorm)}
            assert found == {nn.SyncBatchNorm}
        teacher = distiller.named_members()['teacher']
        assert not any(isinstance(part, nn.SyncBatchNorm) for part in teacher.modules())

    all_forked((check,))
