import re
from base64 import b64decode
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest

from mmkdml.apis import Answer
from mmkdml.apis.prediction.overlays import foreground_color
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.apis.view.tiles import DIVERGENCE, HEAT, Display, render
from mmkdml.evaluation.boxes.samples import TrueBoxes

MEMBERS = ('teacher', 'student_1', 'student_2', 'ensemble')
CLASSES = ('healthy', '<b>ill</b>')
COLOR = foreground_color(0)


def content_of(element):
    return ''.join(element.itertext())


def tiles(text):
    """Return the decoded pictures and their captions by name."""
    found = {}
    for figure in ElementTree.fromstring(f'<div>{text}</div>').iter('figure'):
        (picture,) = figure.iter('img')
        kind, content = picture.get('src').split(',')
        assert kind == 'data:image/png;base64'
        pixels = cv2.imdecode(np.frombuffer(b64decode(content), np.uint8), cv2.IMREAD_COLOR)
        name = picture.get('alt')
        caption = content_of(figure.find('figcaption'))
        assert caption.startswith(f'{name} ')
        found[name] = pixels[..., ::-1], caption.removeprefix(f'{name} ')
    return found


def segmented(truth=None, spacing=None, **share):
    """Slice of 64 x 64 in which each member marks the first rows."""
    answers = {}
    for name in MEMBERS:
        rows = share.get(name, 32)
        scores = np.zeros((1, 64, 64), np.float32)
        scores[:, :rows] = 1
        answers[name] = Answer(scores[0].astype(np.uint8), scores)
    return ViewSlice(np.full((64, 64, 3), 90, np.uint8), answers, truth, spacing)


def test_tiles_of_masks():
    truth = np.zeros((64, 64), np.uint8)
    truth[:16] = 1
    truth[60:] = 255
    found = tiles(render(segmented(truth), Display(MEMBERS, opacity=1), CLASSES))
    assert list(found) == ['image', 'truth', *MEMBERS, 'disagreement']
    assert found['truth'][1] == '1,024 px'
    assert found['ensemble'][1] == '2,048 px, IoU 50.0 %'
    assert found['disagreement'][1] == 'in 0.00 % of the pixels'
    image, drawn = found['image'][0], found['teacher'][0]
    assert image.shape == (512, 512, 3)
    assert (image == 90).all()
    assert (drawn[:250] == COLOR).all()
    assert (drawn[262:] == 90).all()
    assert (found['truth'][0][400:] == 90).all()  # ignored pixels are not marked


def test_opacity_window_and_members():
    view = segmented()
    display = Display(('student_1', 'ensemble'), opacity=0, center=90, width=2)
    found = tiles(render(view, display, CLASSES))
    assert list(found) == ['image', 'student_1', 'ensemble']
    assert found['ensemble'][1] == '2,048 px'
    assert (found['image'][0] == 128).all()
    assert (found['ensemble'][0][8:240, 8:500] == 128).all()  # within the outline


def test_heat_maps_and_disagreement():
    view = segmented(student_2=0, teacher=32, student_1=32)
    found = tiles(render(view, Display(MEMBERS, layer=HEAT, opacity=1), CLASSES))
    share = found['disagreement'][0]
    assert found['disagreement'][1] == 'in 50.00 % of the pixels'
    assert (share[400:] == 90).all()
    assert (share[:200] != 90).any(axis=2).all()
    assert (found['student_2'][0] == 90).all()
    background = tiles(render(view, Display(MEMBERS, HEAT, target=0, opacity=1), CLASSES))
    np.testing.assert_array_equal(background['student_1'][0][400:], found['student_1'][0][:112])
    bits = tiles(render(view, Display(MEMBERS, measure=DIVERGENCE), CLASSES))
    assert bits['disagreement'][1] == f'mean {0.918296 / 2:.4f} bits'  # entropy of 1/3 and 2/3


def test_proportions_of_anisotropic_pixels():
    found = tiles(render(segmented(spacing=(1.0, 2.0)), Display(MEMBERS), CLASSES))
    assert {pixels.shape for pixels, _ in found.values()} == {(256, 512, 3)}


def test_names_are_escaped_and_nothing_is_loaded():
    text = render(segmented(), Display(MEMBERS), CLASSES)
    assert '<b>ill' not in text
    assert '&lt;b&gt;ill' in text
    assert {one[:10] for one in re.findall(r'(?:src|href)="([^"]*)"', text)} == {'data:image'}
    assert 'url(' not in text


def test_boxes_above_the_score():
    boxes = np.array([[2, 2, 12, 12], [30, 30, 50, 60]], np.float32)
    answer = Answer(np.array([1, 0]), np.array([0.9, 0.2], np.float32), boxes)
    truth = TrueBoxes(boxes[:1], np.array([1]), np.array([False]))
    view = ViewSlice(np.full((64, 64, 3), 90, np.uint8), dict(model=answer), truth)
    captions = {
        score: {
            name: caption
            for name, (_, caption) in tiles(
                render(view, Display(['model'], score=score), CLASSES)
            ).items()
        }
        for score in (0.1, 0.3, 0.5)
    }
    assert captions[0.1] == dict(image='', truth='1 box', model='2 boxes, F1 66.7 %')
    assert captions[0.5]['model'] == '1 box, F1 100.0 %'
    drawn = tiles(render(view, Display(['model'], score=0.5), CLASSES))['model'][0]
    assert (drawn[230:] == 90).all()
    assert (drawn[50:90, 16] == foreground_color(1)).all()


@pytest.mark.parametrize(('label', 'truth'), [(1, 0), ((1,), (0,))])
def test_table_of_classes(label, truth):
    answers = {
        'student_1': Answer(label, np.array([0.25, 0.75])),
        'student_2': Answer(label, np.array([0.5, 0.5])),
    }
    view = ViewSlice(np.zeros((8, 8, 3), np.uint8), answers, truth)
    text = render(view, Display(tuple(answers)), CLASSES)
    table = ElementTree.fromstring(f'<div>{text}</div>').find('.//table')
    rows = [[content_of(cell) for cell in row] for row in table.iter('tr')]
    assert rows == [
        ['', 'healthy (true)', '<b>ill</b>'],
        ['student_1', '0.250', '0.750'],
        ['student_2', '0.500', '0.500'],
    ]
    assert [content_of(one) for one in table.iter('b')] == ['0.750', '0.500']
    assert list(tiles(text)) == ['image']
    assert ('divergence of the members: 0.0488 bits' in text) == (label == 1)
