import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis.prediction.box_outputs import coco_text
from mmkdml.apis.prediction.outputs import predict_files

GRAY, RED = (20, 10, 60, 30), (70, 40, 90, 45)
CORNERS = ['x1', 'y1', 'x2', 'y2']


@pytest.fixture
def folder(tmp_path, rectangles):
    """Write images with a gray and a red rectangle, only a gray one, and none."""
    path = tmp_path / 'images'
    path.mkdir()
    Image.fromarray(rectangles(50, 100, GRAY, RED)).save(path / 'a.png')
    Image.fromarray(rectangles(50, 100, GRAY)[..., 0]).save(path / 'b.png')
    Image.fromarray(rectangles(30, 70)).save(path / 'c.png')
    return path


def read(out):
    return pd.read_csv(out / 'predictions.csv')


def boxes_of(table, case, member='model'):
    rows = table[(table.case == case) & (table.member == member)]
    return rows[CORNERS].to_numpy(dtype=float)


def test_rows_files_and_overlays(box_predictor, folder, tmp_path):
    out = tmp_path / 'out'
    table = predict_files(box_predictor(), folder, out)
    columns = ['case', 'image', 'width', 'height', 'member', 'label', 'score', *CORNERS]
    assert list(table) == columns
    assert table.case.tolist() == ['a', 'a', 'b', 'c']
    assert table.label.fillna('').tolist() == ['cell', '=dot', 'cell', '']
    assert table.score.tolist()[:3] == [0.75, 0.5, 0.75]
    assert table.width.tolist() == [100, 100, 100, 70]
    np.testing.assert_allclose(boxes_of(table, 'a'), [GRAY, RED], atol=0.5)
    np.testing.assert_allclose(boxes_of(table, 'b'), [GRAY], atol=0.5)
    written = read(out)
    assert written.label.fillna('').tolist() == ['cell', "'=dot", 'cell', '']  # no formula
    assert sorted(path.name for path in (out / 'overlays').iterdir()) == ['a.png', 'b.png', 'c.png']
    assert not (out / 'masks').exists()
    rows = json.loads((out / 'predictions.json').read_text())['cases']['c']['rows']
    assert rows == [
        dict(image=0, width=70, height=30, member='model', label=None, score=None)
        | dict.fromkeys(CORNERS)
    ]


def test_coco_file_is_complete(box_predictor, folder, tmp_path):
    coco = pytest.importorskip('pycocotools.coco')
    out = tmp_path / 'out'
    predict_files(box_predictor(classroom=True), folder, out, members=['student_2', 'ensemble'])
    assert {path.name for path in (out / 'boxes').iterdir()} == {'student_2.json', 'ensemble.json'}
    data = coco.COCO(str(out / 'boxes' / 'ensemble.json'))
    assert [one['name'] for one in data.loadCats(data.getCatIds())] == ['cell', '=dot']
    names = {image['file_name']: image for image in data.loadImgs(data.getImgIds())}
    assert list(names) == [str(folder / f'{name}.png') for name in 'abc']
    assert [(one['width'], one['height']) for one in names.values()] == [(100, 50)] * 2 + [(70, 30)]
    found = [data.loadAnns(data.getAnnIds(imgIds=image['id'])) for image in names.values()]
    assert [len(one) for one in found] == [2, 1, 0]
    # Fused boxes of both students: the mean of their scores.
    scores = {one['category_id']: one['score'] for one in found[0]}
    assert scores == {1: pytest.approx(0.5), 2: pytest.approx(0.5)}
    gray = next(one for one in found[0] if one['category_id'] == 1)
    np.testing.assert_allclose(gray['bbox'], [20, 10, 40, 20], atol=0.5)
    assert gray['area'] == pytest.approx(gray['bbox'][2] * gray['bbox'][3], abs=0.01)
    # The list is also one of results.
    assert len(data.loadRes(data.dataset['annotations']).anns) == 3


def test_continued_folder_has_equal_files(box_predictor, folder, tmp_path, rectangles):
    predictor = box_predictor()
    predict_files(predictor, folder, tmp_path / 'all')
    names = ['a.png', 'b.png', 'c.png']
    (folder / 'c.png').rename(tmp_path / 'c.png')
    out = tmp_path / 'out'
    predict_files(predictor, folder, out)
    (tmp_path / 'c.png').rename(folder / 'c.png')
    calls = []
    find = predictor.model.test_step

    def counted(data):
        calls.append(len(data['inputs']))
        return find(data)

    predictor.model.test_step = counted
    predict_files(predictor, folder, out)
    assert calls == [1]
    for name in ('predictions.csv', 'predictions.json', 'boxes/model.json', 'overlays/a.png'):
        assert (out / name).read_bytes() == (tmp_path / 'all' / name).read_bytes(), name
    assert len(names) == len(set(read(out).case))
    with pytest.raises(ValueError, match=r'score_threshold.*0\.3.*0\.5'):
        predict_files(predictor, folder, out, score_threshold=0.5)


def test_boxes_are_in_the_displayed_orientation(box_predictor, rectangles, tmp_path):
    """Orientation 6: the stored image is shown rotated by 90 degrees, clockwise."""
    shown = rectangles(100, 50, (5, 20, 30, 90))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(shown)).save(tmp_path / 'x.jpg', exif=exif, quality=95)
    (prediction,) = box_predictor().predict(tmp_path / 'x.jpg')
    assert prediction.image.shape == (100, 50, 3)
    np.testing.assert_allclose(prediction.answers['model'].boxes, [(5, 20, 30, 90)], atol=1)


@pytest.mark.parametrize('pad', [None, (448, 448)])
@pytest.mark.parametrize(
    ('size', 'box'),
    [
        ((50, 100), (20, 10, 60, 30)),
        ((1, 1), (0, 0, 1, 1)),
        ((8, 8), (0, 3, 5, 8)),
        ((900, 37), (3, 100, 30, 650)),
        ((3, 600), (0, 0, 200, 3)),
    ],
)
@pytest.mark.parametrize('augment', [False, True])
def test_boxes_are_in_pixels_of_the_image(box_predictor, rectangles, size, box, pad, augment):
    """Also of flipped views, and whatever the padding."""
    predictor = box_predictor(pad=pad)
    (prediction,) = predictor.predict(rectangles(*size, box), augment=augment)
    answer = prediction.answers['model']
    scale = min(400 / max(size), 200 / min(size))
    np.testing.assert_allclose(answer.boxes, [box], atol=0.51 / scale + 0.51)
    assert answer.boxes.dtype == np.float32
    assert answer.label.tolist() == [0]
    assert answer.scores.tolist() == [0.75]
    np.testing.assert_array_equal(answer.probabilities, answer.scores)


def test_slices_and_pages_are_rows(box_predictor, rectangles, write_slice, tmp_path):
    series = tmp_path / 'scans' / 'series'
    series.mkdir(parents=True)
    for number in range(3):
        pixels = rectangles(40, 80, (10, 5, 30, 25))[..., 0].astype(int) * (number != 1)
        write_slice(series / f'{number}.dcm', pixels, position=(5 * number, 0, 0))
    pages = [Image.fromarray(rectangles(50, 100, GRAY)), Image.fromarray(rectangles(50, 100))]
    pages[0].save(tmp_path / 'scans' / 'stack.tif', save_all=True, append_images=pages[1:])
    out = tmp_path / 'out'
    table = predict_files(box_predictor(), tmp_path / 'scans', out)
    counts = table.groupby(['case', 'image']).label.count()
    assert sorted(counts[('stack')].tolist()) == [0, 1]
    assert counts['series'].tolist() == [1, 0, 1]
    np.testing.assert_allclose(boxes_of(table, 'series')[0], (10, 5, 30, 25), atol=0.5)
    images = json.loads((out / 'boxes' / 'model.json').read_text())['images']
    assert [(one['slice'], one['id']) for one in images] == [(0, 1), (1, 2), (2, 3), (0, 4), (1, 5)]


def test_unknown_class_names_are_indices(box_predictor, rectangles, tmp_path):
    predictor = box_predictor(classes=None)
    table = predict_files(predictor, rectangles(50, 100, GRAY, RED), tmp_path / 'out')
    assert table.label.tolist() == ['0', '1']
    content = json.loads((tmp_path / 'out' / 'boxes' / 'model.json').read_text())
    assert content['images'][0]['file_name'] == 'array_0'


def test_no_cases():
    assert json.loads(coco_text({}, 'model', ['a'])) == dict(
        images=[], categories=[dict(id=1, name='a')], annotations=[]
    )


def test_options_of_other_tasks_are_refused(segmentor, box_predictor, folder, tmp_path):
    with pytest.raises(ValueError, match='--score.*a detector.*segmentation'):
        predict_files(segmentor, folder, tmp_path / 'out', score_threshold=0.5)
    with pytest.raises(ValueError, match=r'score_threshold.*\[0, 1\], got 3'):
        predict_files(box_predictor(), folder, tmp_path / 'out', score_threshold=3)
    assert not (tmp_path / 'out').exists()


def test_boxes_that_are_not_finite_fail_the_case(box_predictor, folder, tmp_path):
    predictor = box_predictor()
    find = predictor.model.predict

    def broken(inputs, samples):
        found = find(inputs, samples)
        for sample in found:
            if sample.pred_instances.labels.tolist() == [0]:
                sample.pred_instances.bboxes[0, 2] = torch.nan
        return found

    predictor.model.predict = broken
    with pytest.raises(ValueError, match='1 of 3 cases failed.*\n.*b: expected finite.*model'):
        predict_files(predictor, folder, tmp_path / 'out')
    assert set(read(tmp_path / 'out').case) == {'a', 'c'}
    assert len(json.loads((tmp_path / 'out' / 'boxes' / 'model.json').read_text())['images']) == 2
