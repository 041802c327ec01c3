"""SimKD: training and publishing a student that reuses its teacher's classifier."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmkdml.apis import load_config, publish
from mmkdml.models import KnowledgeDistiller
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import MODELS

METHOD = 'simkd_classification'
HEAD = ('head.fc.weight', 'head.fc.bias')


@pytest.fixture
def teacher_file(tiny, tmp_path):
    """Save teacher weights that differ from any initialization."""
    teacher = MODELS.build(tiny.compared_members(METHOD, 3)['teacher'])
    torch.manual_seed(5)
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    return tmp_path / 'teacher.pth'


@pytest.fixture
def distiller(tiny, teacher_file):
    return tiny.compared(METHOD, frozen=dict(teacher=str(teacher_file)))


def train(distiller, batch, steps=3, **options):
    wrapper = OptimWrapper(torch.optim.Adam(distiller.parameters(), lr=1e-2, **options))
    distiller.train()
    for _ in range(steps):
        losses = distiller(*batch, mode='loss')
        wrapper.update_params(distiller.parse_losses(losses)[0])
    return distiller


def by_paths(value):
    """Replace the classes of a config by their import paths."""
    if isinstance(value, dict):
        return {key: by_paths(part) for key, part in value.items()}
    if isinstance(value, list):
        return [by_paths(part) for part in value]
    return f'{value.__module__}.{value.__qualname__}' if isinstance(value, type) else value


def test_student_predicts_with_the_teachers_classifier(distiller, tiny):
    inputs, samples = tiny.compared_batch(METHOD, 4)
    train(distiller, (inputs, samples)).eval()
    student, teacher = distiller.members['student'], distiller.named_members()['teacher']
    with torch.no_grad():
        maps = student.neck.projector(student.backbone(inputs)[-1])
        expected = teacher.head.fc(maps.mean(dim=(2, 3)))
        logits = student(inputs)
        predictions = distiller(inputs, samples, mode='predict')
    assert maps.shape == (4, 32, 2, 2)
    torch.testing.assert_close(logits, expected, rtol=0, atol=0)
    scores = torch.stack([sample.pred_score for sample in predictions])
    torch.testing.assert_close(scores, expected.softmax(dim=1))
    assert [sample.pred_label.item() for sample in predictions] == expected.argmax(dim=1).tolist()


def test_classifier_is_loaded_from_the_teachers_file_and_not_trained(distiller, teacher_file, tiny):
    distiller.init_weights()  # as the runner does before the first step
    before = copy.deepcopy(distiller.members['student'].state_dict())
    train(distiller, tiny.compared_batch(METHOD, 4), weight_decay=0.1)
    after, weights = distiller.state_dict(), load_checkpoint_file(teacher_file)['state_dict']
    for name in HEAD:
        assert torch.equal(after[f'members.student.{name}'], weights[name])
    for name in ('backbone.conv1.weight', 'neck.projector.transfer.6.weight'):
        assert not torch.equal(after[f'members.student.{name}'], before[name])
    assert not any(key.startswith('members.teacher') for key in after)


def test_student_is_trained_only_by_its_features(distiller, tiny):
    inputs, samples = tiny.compared_batch(METHOD, 4)
    losses = distiller.train()(inputs, samples, mode='loss')
    assert set(losses) == {'student.loss', 'student.loss_from_teacher.features'}
    assert losses['student.loss'].item() == 0
    tiny.optimized(losses).backward()
    expected = [p.grad.clone() for p in distiller.parameters() if p.requires_grad]
    distiller.zero_grad()
    labels_changed = tiny.compared_batch(METHOD, 4)[1][::-1]
    tiny.optimized(distiller(inputs, labels_changed, mode='loss')).backward()
    actual = [p.grad for p in distiller.parameters() if p.requires_grad]
    assert all(torch.equal(one, other) for one, other in zip(actual, expected, strict=True))


def test_loss_is_the_mean_squared_error_of_the_maps(distiller, tiny):
    inputs, samples = tiny.compared_batch(METHOD, 4)
    distiller.eval()
    loss = distiller(inputs, samples, mode='loss')['student.loss_from_teacher.features']
    student, teacher = distiller.members['student'], distiller.named_members()['teacher']
    learner = student.neck.projector(student.backbone(inputs)[-1])
    source = teacher.neck.conv_block(teacher.backbone(inputs)[-1])
    torch.testing.assert_close(loss, (learner - source).square().mean())


def test_published_student_predicts_without_the_teacher(tiny, teacher_file, tmp_path):
    settings = dict(
        tiny.method_settings(METHOD),
        members=tiny.compared_members(METHOD, 3),
        frozen=dict(teacher=str(teacher_file)),
        input_size=(64, 64),
        data_preprocessor=None,
    )
    Config(dict(model=by_paths(settings))).dump(tmp_path / 'simkd.py')
    config = load_config(tmp_path / 'simkd.py')
    inputs, samples = tiny.compared_batch(METHOD, 4)
    distiller = train(MODELS.build(config.model), (inputs, samples)).eval()
    torch.save(dict(state_dict=distiller.state_dict()), tmp_path / 'epoch_3.pth')
    expected = [s.pred_score for s in distiller(inputs, samples, mode='predict')]
    teacher_file.unlink()

    path, checkpoint = publish(config, tmp_path / 'epoch_3.pth', tmp_path / 'out')
    student = MODELS.build(Config.fromfile(path).model).eval()
    assert type(student) is KnowledgeDistiller
    assert student.member_names == ('student',)
    student.load_state_dict(load_checkpoint_file(checkpoint)['state_dict'])
    actual = [
        s.pred_score for s in student(inputs, tiny.compared_batch(METHOD, 4)[1], mode='predict')
    ]
    assert torch.equal(torch.stack(actual), torch.stack(expected))


# ---- invalid classifiers ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(frozen=None), 'frozen teacher.*frozen members are: none'),
        (dict(reused_classifiers=dict(student='nobody')), 'must name members .*; got nobody'),
        (dict(reused_classifiers=dict(teacher='student')), 'trained teacher and a frozen student'),
    ],
)
def test_invalid_members_raise(changes, message, tiny):
    with pytest.raises(ValueError, match=message):
        tiny.compared(METHOD, **changes)


def test_student_without_simkd_neck_raises(tiny):
    members = tiny.compared_members('sp_classification', 3)
    members['teacher'] = tiny.classifier(width=6)
    with pytest.raises(
        ValueError, match=r"32, 3\) of the learner and \('LinearClsHead', 48, 3\) .*SimKDNeck"
    ):
        tiny.compared(METHOD, members=members)


def test_segmentors_raise(tiny):
    members = tiny.compared_members('segmentation', 1)
    with pytest.raises(ValueError, match='only for classification'):
        tiny.compared(METHOD, members=members)
