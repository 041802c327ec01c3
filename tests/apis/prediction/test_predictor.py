from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from PIL import Image

from mmkdml.apis import load_config, publish
from mmkdml.apis.prediction import prepared as module
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources
from mmkdml.apis.prediction.predictor import load
from mmkdml.datasets import make_demo_data
from mmkdml.registry import DATASETS, MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'
SEGMENT, CLASSIFY = DEMO / 'kdml_v3_demo.py', DEMO / 'kdml_v3_demo_slices.py'
MEMBERS = ['teacher', 'student_1', 'student_2', 'ensemble']


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Write five images, the last of another size, and a stack of the first four."""
    folder = tmp_path_factory.mktemp('images')
    sizes = [(70, 90)] * 4 + [(40, 50)]
    pixels = [
        np.random.default_rng(seed).integers(0, 256, (*size, 3)).astype(np.uint8)
        for seed, size in enumerate(sizes)
    ]
    for number, one in enumerate(pixels):
        Image.fromarray(one).save(folder / f'{number}.png')
    pages = [Image.fromarray(one) for one in pixels[:4]]
    pages[0].save(folder / 'stack.tif', save_all=True, append_images=pages[1:])
    return folder, pixels


def same(one, other):
    assert one.answers.keys() == other.answers.keys()
    for name, answer in one.answers.items():
        np.testing.assert_array_equal(answer.label, other.answers[name].label)
        np.testing.assert_allclose(
            answer.probabilities, other.answers[name].probabilities, atol=1e-5
        )


@pytest.mark.parametrize('config', [SEGMENT, CLASSIFY])
def test_predictions_equal_those_of_a_test_run(predictors, config, tmp_path):
    """A test run uses the config's data set and model on the same files."""
    source = make_demo_data(tmp_path / 'kaggle_3m', patients=1, slices=2, size=80)
    files = sorted(path for path in source.rglob('*.tif') if 'mask' not in path.name)
    rows = [
        f'{path.stem},{path.relative_to(source)},'
        f'{path.relative_to(source).with_name(path.stem + "_mask.tif")},p,0'
        for path in files
    ]
    (tmp_path / 'test.csv').write_text('\n'.join(['id,path,mask,group,label', *rows]) + '\n')
    settings = load_config(config)
    dataset = settings.test_dataloader.dataset
    dataset.update(data_root=str(source), ann_file=str(tmp_path / 'test.csv'))
    data = DATASETS.build(dataset)
    predictor = predictors[config.stem]
    with torch.no_grad():
        samples = predictor.model.test_step(pseudo_collate([data[index] for index in range(2)]))
    for prediction, sample in zip(predictor.predict(files), samples, strict=True):
        assert list(prediction.answers) == MEMBERS
        for name, answer in prediction.answers.items():
            own = sample if name == 'ensemble' else sample.members.get(name)
            if config == CLASSIFY:
                assert answer.label == int(own.pred_label)
                np.testing.assert_array_equal(answer.scores, own.pred_score)
            else:
                np.testing.assert_array_equal(answer.label, own.pred_sem_seg.data[0])
                np.testing.assert_array_equal(answer.probabilities, own.seg_logits.data)
                assert answer.label.shape == prediction.image.shape[:2] == (80, 80)
                assert answer.label.dtype == np.uint8
    assert predictor.task == ('classification' if config == CLASSIFY else 'segmentation')
    assert predictor.classes == ('healthy', 'ill')


@pytest.mark.parametrize('config', [SEGMENT, CLASSIFY])
def test_files_folders_stacks_and_arrays_give_equal_predictions(predictors, images, config):
    folder, pixels = images
    predictor = predictors[config.stem]
    one_by_one = [predictor.predict(folder / f'{number}.png')[0] for number in range(5)]
    assert len({answer.answers['ensemble'].probabilities.tobytes() for answer in one_by_one}) == 5
    of_folder = predictor.predict(str(folder), batch_size=3)
    assert [one.case.source.name for one in of_folder] == [*'01234', *['stack'] * 4]
    assert [one.index for one in of_folder[5:]] == [0, 1, 2, 3]
    of_arrays = predictor.predict(pixels, batch_size=2, progress=True)
    for number, expected in enumerate(one_by_one):
        np.testing.assert_array_equal(expected.image, pixels[number])
        same(of_folder[number], expected)
        same(of_arrays[number], expected)
    for page, expected in zip(of_folder[5:], one_by_one, strict=False):
        np.testing.assert_array_equal(page.image, expected.image)
        same(page, expected)
    sources = find_sources(folder / '4.png')
    same(predictor.predict(sources)[0], one_by_one[4])


def test_images_of_different_sizes_are_batched_separately(checkpoints, images):
    config = load_config(SEGMENT)
    del config.test_dataloader.dataset.pipeline[1]
    predictor = load(config, checkpoints[SEGMENT], 'cpu')
    folder, pixels = images
    padded = [np.pad(one, ((0, 26), (0, 6), (0, 0))) for one in pixels[:4]]  # 96 x 96
    small = np.pad(pixels[4], ((0, 24), (0, 14), (0, 0)))
    mixed = [padded[0], small, small, padded[1]]
    for prediction, one in zip(predictor.predict(mixed), mixed, strict=True):
        assert prediction.answers['ensemble'].label.shape == one.shape[:2]
        same(prediction, predictor.predict(one)[0])


def test_selected_members(segmentor, images):
    _, pixels = images
    (every,) = segmentor.predict(pixels[0])
    (some,) = segmentor.predict(pixels[0], members=['ensemble', 'teacher'])
    assert list(some.answers) == ['teacher', 'ensemble']
    np.testing.assert_array_equal(some.answers['teacher'].label, every.answers['teacher'].label)
    # At once, not with the first prediction.
    with pytest.raises(ValueError, match=r"members: .* teacher, .*, ensemble, got \['tutor'\]"):
        segmentor.stream(pixels[0], members=['tutor'])
    for size in (0, 1.5):
        with pytest.raises(ValueError, match=f'batch_size: .* got {size}'):
            segmentor.stream(pixels[0], batch_size=size)
    with pytest.raises(FileNotFoundError, match='No such image or folder: nowhere'):
        segmentor.stream('nowhere')


def test_files_are_read_lazily(predictors, images, tmp_path, monkeypatch):
    """Memory does not grow with the number of files."""
    for number in range(20):
        Image.fromarray(images[1][4]).save(tmp_path / f'{number:02}.png')
    read, done = [], []
    original = module.read_source
    monkeypatch.setattr(
        module,
        'read_source',
        lambda source, options: read.append(source.name) or original(source, options),
    )
    stream = predictors[CLASSIFY.stem].stream(tmp_path, batch_size=4)
    assert read == done == []
    for predicted, expected in ((1, 4), (4, 4), (5, 8)):
        while len(done) < predicted:
            done.append(next(stream))
        assert len(read) == expected
    assert len(list(stream)) == 15


def test_out_of_memory_error_names_the_batch(predictors, images, monkeypatch):
    predictor = predictors[CLASSIFY.stem]

    def full(data):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(predictor.model, 'test_step', full)
    message = r'a batch of 3 images of \(70, 90\), starting at array_0. .*batch_size'
    with pytest.raises(ValueError, match=message):
        predictor.predict(images[1][:3])


def test_unreadable_files_raise_or_are_passed_to_on_error(checkpoints, images, tmp_path):
    predictor = load(CLASSIFY, checkpoints[CLASSIFY], 'cpu')
    folder, pixels = images
    for name in ('a', 'b', 'c'):
        Image.fromarray(pixels[0]).save(tmp_path / f'{name}.png')
    (tmp_path / 'b.png').write_bytes(b'no')
    with pytest.raises(ValueError, match='b.png: unreadable image'):
        predictor.predict(tmp_path)
    seen = []
    good = predictor.predict(tmp_path, on_error=lambda source, error: seen.append((source, error)))
    assert [one.case.source.name for one in good] == ['a', 'c']
    ((source, error),) = seen
    assert (source.name, type(error)) == ('b', ValueError)
    with pytest.raises(ValueError, match='megapixels are more than'):
        predictor.predict(folder, read=ReadOptions(max_pixels=100))
    predictor.config.test_dataloader.dataset.pipeline[1].scale = (-3, 3)
    with pytest.raises(ValueError, match=r'0.png: the test pipeline failed \('):
        predictor.predict(folder / '0.png')


@pytest.mark.slow
def test_load_run_published_model_and_plain_network(checkpoints, segmentor, images, tmp_path):
    _, pixels = images
    (expected,) = segmentor.predict(pixels[0])
    run = tmp_path / 'run'
    run.mkdir()
    load_config(SEGMENT).dump(run / 'mine.py')
    (run / 'best_x.pth').write_bytes(checkpoints[SEGMENT].read_bytes())
    same(load(run).predict(pixels[0])[0], expected)
    config, checkpoint = publish(load_config(SEGMENT), checkpoints[SEGMENT], tmp_path / 'out')
    assert load(tmp_path / 'out').checkpoint == checkpoint
    (published,) = load(config, checkpoint).predict(pixels[0])
    assert list(published.answers) == MEMBERS[1:]
    np.testing.assert_array_equal(
        published.answers['ensemble'].label, expected.answers['ensemble'].label
    )
    torch.manual_seed(0)
    plain = MODELS.build(load_config(DEMO / 'student_demo.py').model)
    torch.save(plain.state_dict(), tmp_path / 'plain.pth')
    predictor = load(DEMO / 'student_demo.py', tmp_path / 'plain.pth')
    assert predictor.members == ('model',)
    assert predictor.classes is None
    (answer,) = predictor.predict(pixels[0])
    assert list(answer.answers) == ['model']
    assert answer.answers['model'].probabilities.shape == (1, 70, 90)


def test_checkpoint_is_read_once(checkpoints, monkeypatch):
    read = []
    original = torch.load
    monkeypatch.setattr(
        torch, 'load', lambda path, **options: read.append(path) or original(path, **options)
    )
    load(SEGMENT, checkpoints[SEGMENT], 'cpu')
    assert read == [checkpoints[SEGMENT]]


def test_frozen_teacher_predicts_with_its_own_weights(checkpoints, segmentor, images, tmp_path):
    config = load_config(SEGMENT)
    config.model.update(mode='kd_off', teacher_checkpoint=str(checkpoints[SEGMENT]))
    config.model.weights = dict(alpha=(0.5, 0.5), beta=(0.5, 0.5))
    torch.manual_seed(1)
    torch.save(MODELS.build(config.model).state_dict(), tmp_path / 'students.pth')
    (offline,) = load(config, tmp_path / 'students.pth', 'cpu').predict(images[1][0])
    (online,) = segmentor.predict(images[1][0])
    for name, equal in (('teacher', True), ('student_1', False)):
        one, other = (each.answers[name].probabilities for each in (offline, online))
        assert np.array_equal(one, other) == equal


def test_softmax_of_several_logits(images, tmp_path):
    """mmseg returns logits for several classes; the ensemble returns probabilities."""
    config = load_config(SEGMENT)
    for member in (config.model.teacher, *config.model.students):
        member.decode_head.out_channels = 2
    torch.manual_seed(0)
    torch.save(MODELS.build(config.model).state_dict(), tmp_path / 'x.pth')
    (one,) = load(config, tmp_path / 'x.pth', 'cpu').predict(images[1][0])
    for name in MEMBERS[:3]:
        sums = one.answers[name].probabilities.sum(axis=0)
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    students = [one.answers[name].probabilities[1] for name in MEMBERS[1:3]]
    np.testing.assert_allclose(
        one.answers['ensemble'].probabilities[1], np.maximum(*students), atol=1e-6
    )


def test_invalid_arguments_of_load_raise(checkpoints, tmp_path, payload):
    with pytest.raises(ValueError, match='checkpoint: .* got None'):
        load(load_config(SEGMENT))
    with pytest.raises(FileNotFoundError, match='There is no config file nowhere.py'):
        load('nowhere.py', checkpoints[SEGMENT])
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at nowhere'):
        load(SEGMENT, 'nowhere')
    with pytest.raises(ValueError, match='does not fit the model of this config .* Use the config'):
        load(SEGMENT, checkpoints[CLASSIFY])
    with pytest.raises(ValueError, match='no weights of .*student_1, student_2, teacher'):
        load(DEMO / 'student_demo.py', checkpoints[SEGMENT])
    for device in ('gpu', 'meta', 'cuda:99', 1.5):
        with pytest.raises(ValueError, match=f"device: .* got '?{device}"):
            load(SEGMENT, checkpoints[SEGMENT], device)
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoints[SEGMENT].read_bytes()[:5000])
    with pytest.raises(ValueError, match='cut.pth is not a valid checkpoint'):
        load(SEGMENT, cut)
    torch.save(dict(state_dict=payload(tmp_path / 'made')), tmp_path / 'bad.pth')
    with pytest.raises(ValueError, match='bad.pth is not a valid checkpoint'):
        load(SEGMENT, tmp_path / 'bad.pth')
    assert not (tmp_path / 'made').exists()
    torch.save(dict(state_dict=3), tmp_path / 'three.pth')
    with pytest.raises(ValueError, match='three.pth contains no weights'):
        load(SEGMENT, tmp_path / 'three.pth')
