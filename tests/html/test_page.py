import re
from base64 import b64encode
from hashlib import sha256

import jinja2
import pytest

from mmkdml.html import Link, number, render_page

HOSTILE = '<script>alert(1)</script>"\'><img src=x onerror=alert(1)>'
TEMPLATE = """
{% extends 'page.html.j2' %}
{% import 'components.html.j2' as ui %}
{% block main %}
{% call ui.table(text, id='t', attributes={'data-mode': text}) %}
<thead><tr><th scope="col" data-sort="ascending">Run</th></tr></thead>
<tbody><tr><th scope="row">{{ text }}</th></tr></tbody>
{% endcall %}
{{ ui.search('t', text) }}{{ ui.choose('t', 'mode', text, [text, ('a', text)]) }}{{ ui.shown('t') }}
{{ ui.switch('t', 'kind', text, [(text, text), ('b', text)]) }}
{{ ui.switch('t', 'many', text, [(text, text)] * 5) }}
{{ ui.picture('data:' ~ text, text, attributes={'data-run': text}) }}
{{ ui.code(text, text) }}{{ ui.badge(text) }}{{ ui.card(text, text, text) }}
{% endblock %}
"""


@pytest.fixture
def render(tmp_path):
    def render(source, **context):
        path = tmp_path / 'a.html.j2'
        path.write_text(source)
        return render_page(path, **({'title': 'T', 'contents': [Link('t', 'Table')]} | context))

    return render


def test_text_is_escaped_in_every_component(render):
    links = [Link('t', HOSTILE, [Link('u', HOSTILE)])]
    page = render(TEMPLATE, text=HOSTILE, title=HOSTILE, contents=links)
    assert page.count('<script') == page.count('</script>') == 1
    assert '<img src=x' not in page
    assert page.count('&lt;script&gt;') >= 25


def test_only_the_script_of_the_page_may_run_and_nothing_is_loaded(render):
    page = render(TEMPLATE, text='x')
    (policy,) = re.findall('Content-Security-Policy" content="([^"]+)"', page)
    (script,) = re.findall('<script>(.*?)</script>', page, re.DOTALL)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    assert dict(part.split(' ', 1) for part in policy.split('; ')) == {
        'default-src': "'none'",
        'img-src': 'data:',
        'style-src': "'unsafe-inline'",
        'script-src': f"'sha256-{digest}'",
        'base-uri': "'none'",
        'form-action': "'none'",
    }
    assert not re.search(r'url\(|@import|https?://|\son\w+=', page)


def test_controls_are_hidden_without_scripts(render):
    page = render(TEMPLATE, text='x')
    controls = re.findall('<(?:span|fieldset) class="control[^>]*>', page)
    assert len(controls) == 5
    assert all(control.endswith(' hidden>') for control in controls)


def test_contents_are_nested(render):
    page = render(TEMPLATE, text='x', contents=[Link('a', 'A', [Link('b', 'B')]), Link('c', 'C')])
    contents = page.partition('<nav')[2].partition('</nav>')[0]
    assert re.findall('href="#(.)">(.)<', contents) == [('a', 'A'), ('b', 'B'), ('c', 'C')]
    assert contents.count('<ul>') == 2


def test_undefined_variables_are_errors(render):
    with pytest.raises(jinja2.UndefinedError, match='text'):
        render(TEMPLATE)


@pytest.mark.parametrize(
    ('arguments', 'text'),
    [((1234.567,), '1,234.57'), ((-0.5, 1), '−0.5'), ((2, 3, True), '+2.000')]
    + [((float('nan'),), '–')],
)
def test_numbers(arguments, text):
    assert number(*arguments) == text
