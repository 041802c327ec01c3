import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml import __version__
from mmkdml.apis import load_config, publish
from mmkdml.files import file_sha256
from mmkdml.inspection import inspect_config
from mmkdml.models import KnowledgeDistiller
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[3] / 'configs'
DEMO = CONFIGS / 'demo' / 'kdml_v3_demo.py'


@pytest.fixture(scope='module')
def model():
    torch.manual_seed(0)
    return MODELS.build(load_config(DEMO).model)


@pytest.fixture
def checkpoint(model, tmp_path):
    """Write a checkpoint as a run does, with a projector."""
    path = tmp_path / 'epoch_3.pth'
    weights = {**model.state_dict(), 'transfer_modules.0.weight': torch.zeros(2)}
    meta = dict(epoch=3, iter=30, dataset_meta=dict(classes=('a', 'b')), cfg='secret', seed=1)
    torch.save(dict(state_dict=weights, optimizer=dict(state={}), message_hub={}, meta=meta), path)
    return path


def test_checkpoint_contains_only_the_students(model, checkpoint, tmp_path):
    config, published = publish(load_config(DEMO), checkpoint, tmp_path / 'out')
    assert {path.name for path in (tmp_path / 'out').iterdir()} == {config.name, published.name}
    assert config.name == 'kdml_v3_demo.py'
    assert published.name == f'kdml_v3_demo-{file_sha256(published)[:8]}.pth'
    content = load_checkpoint_file(published)
    assert content.keys() == {'state_dict', 'meta'}
    assert content['meta'] == dict(
        mmkdml_version=__version__, epoch=3, iter=30, dataset_meta=dict(classes=('a', 'b'))
    )
    expected = {
        key: value
        for key, value in model.state_dict().items()
        if key.startswith(('members.student_1.', 'members.student_2.'))
    }
    assert content['state_dict'].keys() == expected.keys()
    assert not any('teacher' in key or 'transfer' in key for key in content['state_dict'])
    assert all(torch.equal(value, expected[key]) for key, value in content['state_dict'].items())


def test_config_builds_an_equal_ensemble(model, checkpoint, tmp_path):
    path, published = publish(load_config(DEMO), checkpoint, tmp_path / 'out')
    published_model = MODELS.build(Config.fromfile(path).model)
    assert type(published_model) is KnowledgeDistiller
    assert (
        published_model.student_names == published_model.member_names == ('student_1', 'student_2')
    )
    assert published_model.input_size == (64, 64)
    published_model.load_state_dict(load_checkpoint_file(published)['state_dict'])
    torch.manual_seed(1)
    images = torch.rand(2, 3, 64, 64)
    # With the preprocessing of each classroom.
    published_samples, samples = (
        network.eval().test_step(dict(inputs=[*images], data_samples=samples))
        for network, samples in ((published_model, _samples()), (model, _samples()))
    )
    for one, other in zip(published_samples, samples, strict=True):
        assert torch.equal(one.seg_logits.data, other.seg_logits.data)
        assert torch.equal(one.pred_sem_seg.data, other.pred_sem_seg.data)


def _samples():
    from mmseg.structures import SegDataSample

    return [SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64))) for _ in range(2)]


def test_publishing_twice_gives_equal_bytes(checkpoint, tmp_path):
    first, second = (publish(load_config(DEMO), checkpoint, tmp_path / name) for name in 'ab')
    for one, other in zip(first, second, strict=True):
        assert one.name == other.name
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize('name', ['kd_off/r50_mbv1x2_v3_lgg', 'kdml/r50_r18x2_v3_pcam'])
def test_configs_of_the_paper_are_published(name, tmp_path, monkeypatch):
    """A dumped config is equal except for the model, which has no pretrained weights."""

    config = load_config(CONFIGS / f'{name}.py')
    before = copy.deepcopy(config.to_dict())
    state = {
        f'members.{student}.{key}': value
        for student in ('student_1', 'student_2')
        for key, value in inspect_config(config).members[student].state_dict().items()
    }
    torch.save(state, tmp_path / 'plain.pth')
    path, _ = publish(config, tmp_path / 'plain.pth', tmp_path / 'out')
    assert config.to_dict() == before
    written = Config.fromfile(path).to_dict()
    text = path.read_text()
    for word in ('Pretrained', 'torchvision://', 'pretrained=', 'teacher', 'work_dir'):
        assert word.lower() not in text.lower().replace('pretrainedtimmbackbone', '')
    for key in before.keys() - {'model', 'work_dir'}:
        assert written[key] == before[key], key
    assert written['model']['transfers'] == []


def test_preprocessing_of_the_first_teacher_is_published(tmp_path):
    demo = load_config(DEMO).to_dict()['model']
    preprocessor = demo['data_preprocessor']
    model = dict(
        type='mmkdml.KnowledgeDistiller',
        members=dict(
            tutor=dict(demo['teacher'], data_preprocessor=preprocessor), pupil=demo['students'][0]
        ),
        transfers=[dict(source='tutor', learner='pupil', knowledge='predictions', weight=1.0)],
        ensemble='mean',
        input_size=[64, 64],
    )
    (tmp_path / 'mine.py').write_text(f'model = {model!r}')
    config = load_config(tmp_path / 'mine.py')
    classroom = MODELS.build(config.model)
    torch.save(classroom.state_dict(), tmp_path / 'x.pth')
    path, _ = publish(config, tmp_path / 'x.pth', tmp_path / 'out')
    written = Config.fromfile(path).model
    assert list(written.members) == ['pupil']
    assert written.ensemble == 'mean'
    assert written.data_preprocessor.to_dict() == preprocessor


def test_published_files_are_replaced_only_with_force(checkpoint, tmp_path):
    paths = publish(load_config(DEMO), checkpoint, tmp_path)
    before = [path.read_bytes() for path in paths]
    with pytest.raises(FileExistsError, match='kdml_v3_demo.py already exists.*--force'):
        publish(load_config(DEMO), checkpoint, tmp_path)
    paths[0].unlink()
    with pytest.raises(FileExistsError, match=r'kdml_v3_demo-.{8}\.pth already exists'):
        publish(load_config(DEMO), checkpoint, tmp_path)
    assert not paths[0].exists()
    assert not list(tmp_path.glob('*.part*'))
    assert publish(load_config(DEMO), checkpoint, tmp_path, force=True) == paths
    assert [path.read_bytes() for path in paths] == before


def test_invalid_checkpoints_and_configs_raise(model, checkpoint, tmp_path):
    out = tmp_path / 'out'
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at nowhere'):
        publish(load_config(DEMO), 'nowhere', out)
    torch.save(model.members['student_1'].state_dict(), tmp_path / 'plain.pth')
    with pytest.raises(
        ValueError, match='Invalid checkpoint .*plain.pth: expected one of a classroom'
    ):
        publish(load_config(DEMO), tmp_path / 'plain.pth', out)
    torch.save(
        {
            key: value
            for key, value in model.state_dict().items()
            if key != 'members.student_2.decode_head.conv_seg.bias'
        },
        tmp_path / 'less.pth',
    )
    with pytest.raises(ValueError, match=r'less.pth does not fit the student_2.*\(missing: deco'):
        publish(load_config(DEMO), tmp_path / 'less.pth', out)
    torch.save(
        {key: value for key, value in model.state_dict().items() if 'student_1' not in key},
        tmp_path / 'none.pth',
    )
    with pytest.raises(ValueError, match="no weights of 'student_1': .*student_2, teacher"):
        publish(load_config(DEMO), tmp_path / 'none.pth', out)
    baseline = load_config(CONFIGS / 'baselines' / 'r18_lgg.py')
    with pytest.raises(TypeError, match='r18_lgg.py: expected a classroom, got EncoderDecoder'):
        publish(baseline, checkpoint, out)
    assert not out.exists()


def test_students_keep_their_own_normalization(tmp_path):
    demo = load_config(DEMO)
    own = dict(demo.model.data_preprocessor, type='mmseg.SegDataPreProcessor', mean=[1.0, 2.0, 3.0])
    demo.model.students[1].data_preprocessor = own
    classroom = MODELS.build(demo.model).eval()
    assert list(classroom.renormalizations) == ['student_2']
    torch.save(classroom.state_dict(), tmp_path / 'x.pth')
    path, checkpoint = publish(demo, tmp_path / 'x.pth', tmp_path / 'out')
    published = MODELS.build(Config.fromfile(path).model).eval()
    published.load_state_dict(torch.load(checkpoint, weights_only=True)['state_dict'])
    inputs = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        ends = published(inputs), classroom(inputs)
    for name in ('student_1', 'student_2'):
        assert torch.equal(ends[0][name], ends[1][name])


def test_data_preprocessor_of_the_run_is_published(tmp_path):
    demo = load_config(DEMO)
    for member in (demo.model.teacher, *demo.model.students):
        member.pop('data_preprocessor', None)
    demo.data_preprocessor = demo.model.pop('data_preprocessor')
    state = inspect_config(demo).distiller.state_dict()
    torch.save(dict(state_dict=state, meta=3), tmp_path / 'x.pth')  # invalid meta is ignored
    path, _ = publish(demo, tmp_path / 'x.pth', tmp_path / 'out')
    written = Config.fromfile(path)
    assert written.model.data_preprocessor == written.data_preprocessor
    mean = inspect_config(written).distiller.data_preprocessor.mean
    assert mean.flatten().tolist() == pytest.approx(demo.data_preprocessor.mean)


def test_input_config_is_not_overwritten(checkpoint, tmp_path):
    own = tmp_path / 'own.py'
    load_config(DEMO).dump(own)
    before = own.read_bytes()
    with pytest.raises(FileExistsError, match=r'own\.py is an input and would be overwritten'):
        publish(load_config(own), checkpoint, tmp_path, force=True)
    assert own.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ['epoch_3.pth', 'own.py']
