import io
import re
from base64 import b64decode
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure
from PIL import Image

from mmkdml.html import image_uri, inline_svg

HOSTILE = '<script>alert(1)</script>'


@pytest.fixture(scope='module')
def svg():
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.plot([1, 2], [3, 4], color='#0072B2', marker='o', label=HOSTILE)
    axes.grid(color='#b0b0b0')
    axes.legend()
    file = io.StringIO()
    with rc_context({'svg.fonttype': 'none'}):
        figure.savefig(file, format='svg')
    return file.getvalue()


def test_svg_takes_the_colors_of_the_page(svg):
    page = inline_svg(svg, 'p', 'A plot')
    assert 'stroke: #0072b2' in page
    assert {'var(--text)', 'var(--line)', 'var(--bg)'} <= set(re.findall(r'var\(--\w+\)', page))
    assert not re.search('#000000|#ffffff|#b0b0b0', page)


def test_ids_are_unique_and_references_have_targets(svg):
    pages = [inline_svg(svg, prefix, 'A plot') for prefix in 'pq']
    ids = [set(re.findall(r' id="([^"]+)"', page)) for page in pages]
    assert ids[0]
    assert not ids[0] & ids[1]
    for page, known in zip(pages, ids, strict=True):
        assert set(re.findall(r'"(?:url\()?#([^")]+)', page)) == known


def test_svg_changes_nothing_else_of_the_page(svg):
    page = inline_svg(svg, 'p', HOSTILE)
    root = ElementTree.fromstring(page)
    names = {element.tag.rpartition('}')[2] for element in root.iter()}
    assert names.isdisjoint({'style', 'script', 'metadata'})
    assert root.attrib['role'] == 'img'
    assert root.attrib['aria-label'] == HOSTILE
    assert HOSTILE in ''.join(root.itertext())
    assert len(page) < len(svg)


def test_images_are_reduced(tmp_path):
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, 60:] = 255
    Image.fromarray(pixels).save(tmp_path / 'a.png')
    kind, _, content = image_uri(tmp_path / 'a.png', max_size=40).partition(';base64,')
    assert kind == 'data:image/webp'
    with Image.open(io.BytesIO(b64decode(content))) as image:
        assert image.size == (40, 20)
        left, right = np.asarray(image.convert('L'))[10, [5, 35]]
    assert left < 20
    assert right > 235


def test_invalid_image_is_named(tmp_path):
    (tmp_path / 'a.png').write_text('no image')
    with pytest.raises(ValueError, match=r'Invalid image .*a\.png'):
        image_uri(tmp_path / 'a.png')
