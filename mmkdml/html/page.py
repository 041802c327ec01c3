"""Self-contained HTML pages that work offline and can be read without scripts."""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from mmkdml.html.lazy import compressed
from mmkdml.html.theme import color_css
from mmkdml.version import __version__

_ASSETS = Path(__file__).parent / 'assets'


class Link(NamedTuple):
    """Entry of the contents.

    Attributes:
        anchor: HTML id of the section.
        title: Text of the link.
        parts: Entries of its subsections.
    """

    anchor: str
    title: str
    parts: Sequence[Link] = ()


def render_page(template: str | Path, title: str, contents: Sequence[Link], **context: Any) -> str:
    """Render a page with everything in one file: styles, script and pictures.

    Text is escaped. A security policy in the page forbids network access and all scripts but
    mmkdml's own, so that text from data sets and logs cannot run.

    Args:
        template: Jinja template that extends ``page.html.j2`` with the block ``main``; it may
            import the macros of ``components.html.j2``. Other templates of its folder can be
            included.
        title: Title and heading of the page.
        contents: Entries of the contents, in order.
        **context: Variables of the template. Undefined ones are errors.
    """
    template = Path(template)
    script = _asset('script.js')
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        _environment(template.parent)
        .get_template(template.name)
        .render(
            title=title,
            contents=contents,
            style=Markup(color_css() + _asset('style.css')),
            script=Markup(script),
            script_digest=digest,
            version=__version__,
            **context,
        )
    )


@cache
def _environment(folder: Path) -> Environment:
    """Return the environment of the templates in a folder, which keeps compiled templates."""
    environment = Environment(
        loader=FileSystemLoader([folder, _ASSETS]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= dict(number=number, compressed=compressed)
    return environment


def number(value: float, digits: int = 2, sign: bool = False) -> str:
    """Format a number; NaN is a dash, and minus signs are those of typography."""
    if math.isnan(value):
        return '–'
    text = f'{value:{"+" if sign else ""},.{digits}f}'
    if not float(text.replace(',', '')):
        return text.lstrip('+-')  # zero has no sign
    return text.replace('-', '\N{MINUS SIGN}')


@cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding='utf-8')
