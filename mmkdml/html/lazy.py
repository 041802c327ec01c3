"""Compressed parts of pages of many megabytes, which are inserted when they come into view."""

from __future__ import annotations

import gzip
from base64 import b64encode

from markupsafe import Markup, escape


def compressed(html: str, note: str, lazy: bool = True) -> Markup:
    """Compress a part of a page; the page's script inserts it when it comes into view.

    Args:
        html: The part.
        note: Text that replaces it without scripts, in print, and until it is inserted.
        lazy: False returns the part as it is.
    """
    if not lazy:
        return Markup(html)
    text = b64encode(gzip.compress(html.encode(errors='backslashreplace'), 6, mtime=0)).decode()
    return Markup(
        f'<div class="lazy"><template>{text}</template><p class="muted">{escape(note)}</p></div>'
    )
