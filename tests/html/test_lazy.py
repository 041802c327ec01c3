import gzip
import re
from base64 import b64decode

from mmkdml.html.lazy import compressed

HTML = '<p title="é">5 < 6 \udcff</p>' * 99


def test_part_is_contained_compressed_next_to_the_escaped_note():
    page = compressed(HTML, '<b>wait</b> & see')
    (text,) = re.findall(r'<template>([\w+/=]+)</template>', page)
    assert gzip.decompress(b64decode(text)) == HTML.encode(errors='backslashreplace')
    assert '&lt;b&gt;wait&lt;/b&gt; &amp; see' in page
    assert len(page) < len(HTML) / 5
    assert page == compressed(HTML, '<b>wait</b> & see')  # equal reports are equal files


def test_small_part_is_not_changed():
    assert compressed('<p>&amp;</p>', 'note', lazy=False) == '<p>&amp;</p>'
