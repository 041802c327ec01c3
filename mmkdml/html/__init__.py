"""Self-contained HTML pages: page shell, tables, switches, galleries, pictures.

A page is a Jinja template that extends ``page.html.j2`` and uses the macros of
``components.html.j2``, both in ``assets``; see :func:`render_page`.
"""

from mmkdml.html.charts import Line, line_chart
from mmkdml.html.intervals import IntervalAxis
from mmkdml.html.page import Link, number, render_page
from mmkdml.html.pictures import image_uri, inline_svg

__all__ = [
    'IntervalAxis',
    'Line',
    'Link',
    'image_uri',
    'inline_svg',
    'line_chart',
    'number',
    'render_page',
]
