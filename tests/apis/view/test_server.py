"""The guard of the page, request by request, and the arguments of the viewer."""

import asyncio
import socket
import sys

import pytest

from mmkdml.apis.view.server import Guard, view

OWN, PORT, TOKEN = '127.0.0.1:7860', 7860, 'secret'
COOKIE = f'mmkdml_view_{PORT}={TOKEN}'


def request(path='/', host=OWN, cookie=COOKIE, query='', kind='http'):
    """Return status and headers of an answer; 200 is that of the application."""
    sent = []

    async def app(scope, receive, send):
        headers = [(b'content-type', b'text/html'), (b'cache-control', b'public')]
        await send(dict(type='http.response.start', status=200, headers=headers))
        await send(dict(type='http.response.body', body=b'page'))

    async def send(message):
        sent.append(message)

    headers = [(b'host', host.encode()), (b'cookie', cookie.encode())]
    scope = dict(type=kind, path=path, query_string=query.encode(), headers=headers)
    asyncio.run(Guard(app, PORT, TOKEN)(scope, None, send))
    if not sent:
        return None, {}
    return sent[0]['status'], {key.decode(): value.decode() for key, value in sent[0]['headers']}


@pytest.mark.parametrize('path', ['/', '/config', '/theme.css', '/assets/a.js', '/static/a.js'])
def test_page_is_served(path):
    status, headers = request(path)
    assert (status, headers['content-type']) == (200, 'text/html')
    assert headers['cache-control'] == 'no-store'


@pytest.mark.parametrize(
    'path',
    [
        '/gradio_api/file=/etc/passwd',
        '/gradio_api/file/etc/passwd',
        '/file=/etc/passwd',
        '/gradio_api/upload',
        '/gradio_api/proxy=https://example.com/',
        '/gradio_api/stream/a',
        '/gradio_api/queue/../file=/etc/passwd',
        '/assets/../../../etc/passwd',
        '/assets/..\\..\\passwd',
        '/gradio_api/',
        '/monitoring',
        '/docs',
        '/openapi.json',
        '/manifest.json',
    ],
)
def test_files_uploads_and_proxies_are_not(path):
    assert request(path)[0] == 404


@pytest.mark.parametrize(
    'cookie', ['', 'mmkdml_view_7860=other', 'mmkdml_view_1=secret', '\x00;=', f'{COOKIE}x']
)
def test_other_users_do_not_know_the_token(cookie):
    for path in ('/', '/config', '/gradio_api/queue/data', '/gradio_api/file=/etc/passwd'):
        assert request(path, cookie=cookie)[0] == 403
    assert request(cookie=cookie, query='token=other')[0] == 403


def test_token_of_the_address_becomes_a_cookie():
    status, headers = request(cookie='', query=f'token={TOKEN}')
    assert (status, headers['location']) == (303, '/')
    cookie, *flags = headers['set-cookie'].split('; ')
    assert set(flags) == {'Path=/', 'HttpOnly', 'SameSite=Lax'}
    assert request(cookie=f'a=b; {cookie}')[0] == 200
    assert request('/config', cookie='', query=f'token={TOKEN}')[0] == 403  # only the page


@pytest.mark.parametrize('host', ['evil.example:7860', '127.0.0.1:1', '127.0.0.1', '', 'localhost'])
def test_names_that_were_rebound_to_this_machine(host):
    assert request(host=host)[0] == 421
    assert request(host='localhost:7860')[0] == 200


def test_page_may_load_nothing_from_elsewhere():
    policy = request()[1]['content-security-policy'].split('; ')
    sources = {word for one in policy for word in one.split()[1:]}
    assert "default-src 'self'" in policy
    assert sources <= {"'self'", "'none'", "'unsafe-inline'", "'unsafe-eval'", 'data:'}
    assert request(cookie='')[1]['content-security-policy'].split('; ') == policy


def test_web_sockets_are_refused():
    assert request(kind='websocket') == (None, {})


def test_missing_package_is_named_with_its_command(segmentor, monkeypatch):
    monkeypatch.setitem(sys.modules, 'gradio', None)
    with pytest.raises(ValueError, match=r"gradio is not installed.*pip install 'mmkdml\[view\]'"):
        view(segmentor)


def test_invalid_arguments(segmentor, pictures, tmp_path):
    pytest.importorskip('gradio')
    with pytest.raises(ValueError, match='--truth: expected images'):
        view(segmentor, truth=tmp_path)
    with pytest.raises(ValueError, match='--port: expected a number from 0 to 65535, got 65536'):
        view(segmentor, [pictures], port=65536)
    with (
        socket.create_server(('127.0.0.1', 0)) as taken,
        pytest.raises(OSError, match=f'--port: .*got {taken.getsockname()[1]}.*0 for any'),
    ):
        view(segmentor, [pictures], port=taken.getsockname()[1])
