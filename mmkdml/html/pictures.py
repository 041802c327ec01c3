"""Pictures inside pages: photographs and figures as ``data:`` URIs, plots as inline SVG."""

from __future__ import annotations

import io
import re
from base64 import b64encode
from pathlib import Path
from xml.etree import ElementTree

from markupsafe import Markup
from PIL import Image

_SVG = 'http://www.w3.org/2000/svg'
_XLINK = '{http://www.w3.org/1999/xlink}href'
_DROPPED = {f'{{{_SVG}}}metadata', f'{{{_SVG}}}style'}
_COORDINATES = {'d', 'x', 'y', 'points'}
_PLOT_COLORS = 1 << 12  # photographs have more
_NUMBER = re.compile(r'-?\d+\.\d+')
_REFERENCE = re.compile(r'#([\w.-]+)')
_FONT_FAMILY = re.compile(r'font-family: [^;]+; ')  # the page's own
_COLOR = re.compile('#([0-9a-f]{6})\\b', re.IGNORECASE)


def image_uri(path: str | Path, max_size: int = 1200, quality: int = 72) -> str:
    """Return an image file as a WebP ``data:`` URI; plots are without loss if that is smaller.

    Args:
        path: Image file.
        max_size: Largest width and height in pixels; larger images are reduced.
        quality: Quality of the compression with loss, 0 to 100.

    Raises:
        ValueError: If the file is not an image.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert('RGBA' if 'transparency' in image.info else 'RGB')
    except (OSError, SyntaxError) as error:
        raise ValueError(f'Invalid image {path}: {error}') from error
    is_plot = picture.getcolors(_PLOT_COLORS) is not None
    picture.thumbnail((max_size, max_size), Image.Resampling.LANCZOS)
    contents = []
    for options in (dict(quality=quality), dict(lossless=True))[: 1 + is_plot]:
        file = io.BytesIO()
        picture.save(file, 'WEBP', method=4, **options)
        contents.append(file.getvalue())
    return f'data:image/webp;base64,{b64encode(min(contents, key=len)).decode()}'


def inline_svg(svg: str, prefix: str, label: str) -> Markup:
    """Prepare an SVG of matplotlib to be part of a page.

    Gray colors become those of the page, so that the plot is readable on light and dark screens.
    Coordinates are rounded, and ids are unique in the page.

    Args:
        svg: Content of the SVG file.
        prefix: Prefix of ids, unique in the page.
        label: Alternative text.
    """
    ElementTree.register_namespace('', _SVG)
    root = ElementTree.fromstring(svg)
    elements = list(root.iter())
    values = [value for element in elements for value in element.attrib.values()]
    used = {name for value in values for name in _REFERENCE.findall(value)}
    for parent in elements:
        # A style sheet would apply to the entire page.
        for child in [child for child in parent if child.tag in _DROPPED]:
            parent.remove(child)
    for element in root.iter():
        name = element.attrib.pop('id', None)
        if _XLINK in element.attrib:
            element.set('href', element.attrib.pop(_XLINK))
        for key in ('href', 'clip-path'):
            if key in element.attrib:
                element.set(key, element.attrib[key].replace('#', f'#{prefix}-'))
        if name in used:
            element.set('id', f'{prefix}-{name}')
        for key in element.attrib.keys() & _COORDINATES:
            element.set(key, _NUMBER.sub(lambda one: f'{float(one[0]):.4g}', element.attrib[key]))
        if 'style' in element.attrib:
            style = _FONT_FAMILY.sub('', element.attrib['style'])
            element.set('style', _COLOR.sub(_page_color, style))
    root.attrib.update({'role': 'img', 'aria-label': label, 'fill': 'currentColor'})
    root.attrib.update({'stroke-linejoin': 'round', 'class': 'plot-svg'})
    return Markup(ElementTree.tostring(root, encoding='unicode'))


def _page_color(found: re.Match[str]) -> str:
    """Replace a gray by the color of the page with the same role."""
    red, green, blue = (int(found[1][place : place + 2], 16) for place in (0, 2, 4))
    if max(red, green, blue) - min(red, green, blue) > 8:
        return found[0]
    for limit, name in ((70, 'text'), (160, 'muted'), (250, 'line')):
        if green < limit:
            return f'var(--{name})'
    return 'var(--bg)'
