"""Local server of the viewer, restricted to one browser on this machine."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import webbrowser
from collections.abc import Awaitable, Callable, Sequence
from hmac import compare_digest
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from mmkdml.apis.prediction import Predictor, ReadOptions
from mmkdml.apis.view.page import CSS, Page, build
from mmkdml.apis.view.sources import Cases, FileCases, SplitCases
from mmkdml.optional import require

HOST = '127.0.0.1'
# Routes that the page needs. Those of files, uploads and proxies are blocked.
_PREFIXES = ('/assets/', '/static/', '/theme.css', '/gradio_api/')
_API = ('queue', 'heartbeat', 'startup-events', 'info', 'app_id', 'cancel', 'reset', 'theme.css')
_HEADERS = {
    'Content-Security-Policy': "default-src 'self'; script-src 'self' 'unsafe-inline' "
    "'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' "
    "data:; object-src 'none'; form-action 'none'; frame-ancestors 'none'",
    'Cache-Control': 'no-store',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
    'X-DNS-Prefetch-Control': 'off',
}

Send = Callable[[Any], Awaitable[None]]


class Guard:
    """ASGI middleware that serves the page only to the browser that has its token.

    Requests must name this machine as the host, which prevents DNS rebinding, and have the token,
    which other users of the machine and other pages in the browser do not know. The printed address
    contains it, and the first response moves it to a cookie. The page may not load anything from
    other hosts.

    Args:
        app: The application.
        port: Its port.
        token: The token.
    """

    def __init__(self, app: Any, port: int, token: str) -> None:
        self.app, self.token = app, token
        self.hosts = {f'{name}:{port}' for name in (HOST, 'localhost')}
        self.cookie = f'mmkdml_view_{port}'  # cookies do not depend on the port

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        """Answer a request, or pass it to the application."""
        if scope['type'] == 'lifespan':
            return await self.app(scope, receive, send)
        if scope['type'] != 'http':
            return None
        headers = {key.decode('latin1'): value.decode('latin1') for key, value in scope['headers']}
        given = parse_qs(scope['query_string'].decode('latin1')).get('token', [''])[0]
        if headers.get('host') not in self.hosts:
            return await _answer(send, 421, 'expected the host 127.0.0.1 or localhost')
        if scope['path'] == '/' and self._fits(given):
            cookie = f'{self.cookie}={self.token}; Path=/; HttpOnly; SameSite=Lax'
            return await _answer(send, 303, '', {'Location': '/', 'Set-Cookie': cookie})
        if not self._fits(self._cookie(headers.get('cookie', ''))):
            return await _answer(send, 403, 'open the address that mmkdml view printed')
        if not _is_served(scope['path']):
            return await _answer(send, 404, 'not found')

        async def send_guarded(message: Any) -> None:
            if message['type'] == 'http.response.start':
                kept = [
                    (key, value)
                    for key, value in message['headers']
                    if key.lower() != b'cache-control'
                ]
                message = dict(message, headers=[*kept, *_encoded(_HEADERS)])
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _fits(self, token: str) -> bool:
        return compare_digest(token.encode(), self.token.encode())

    def _cookie(self, text: str) -> str:
        try:
            found = SimpleCookie(text).get(self.cookie)
        except CookieError:
            return ''
        return found.value if found else ''


def view(
    predictor: Predictor,
    images: Sequence[str | Path] = (),
    truth: str | Path | None = None,
    port: int = 7860,
    browser: bool = True,
    read: ReadOptions | None = None,
) -> None:
    """Serve a page with the predictions of a run until Ctrl-C.

    The page is only reachable from this machine, and only with the token in the printed address.
    It sends no data to other hosts and serves no files: pictures are embedded in the page.

    Args:
        predictor: The run.
        images: Files and folders to predict. Default: the test split of the run.
        truth: Folder of true masks of the images.
        port: Port on the loopback interface; 0 for any free one.
        browser: Open the page in a browser.
        read: Options for reading images and volumes.

    Raises:
        FileNotFoundError: If an image, folder or data set does not exist.
        OSError: If the port is not available.
        ValueError: If Gradio is not installed, an argument is invalid, or there is no image.
    """
    os.environ.update(GRADIO_ANALYTICS_ENABLED='False', HF_HUB_OFFLINE='1')
    modules = ('gradio', 'uvicorn', 'fastapi')
    gradio, uvicorn, fastapi = (require(m, extra='view', purpose='the viewer') for m in modules)
    if images:
        masks = None if truth is None else Path(truth)
        cases: Cases = FileCases(predictor, images, read or ReadOptions(), masks)
    elif truth is None:
        cases = SplitCases(predictor)
    else:
        raise ValueError('--truth: expected images that the masks belong to, got none')
    title = f'mmkdml view: {predictor.checkpoint.parent.name if predictor.checkpoint else ""}'
    blocks = build(gradio, Page(predictor, cases), title)
    with _listen(port) as listener:
        port = listener.getsockname()[1]
        theme = gradio.themes.Base(
            font=['system-ui', 'sans-serif'], font_mono=['ui-monospace', 'monospace']
        )
        app = gradio.mount_gradio_app(
            fastapi.FastAPI(),
            blocks,
            '/',
            server_name=HOST,
            server_port=port,
            footer_links=[],
            run_history=False,  # would keep the inputs in the browser
            blocked_paths=[Path.cwd().anchor],
            max_file_size=0,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            theme=theme,
            css=CSS,
        )
        token = secrets.token_urlsafe()
        address = f'http://{HOST}:{port}/?token={token}'
        server = uvicorn.Server(
            uvicorn.Config(
                Guard(app, port, token), log_level='warning', timeout_graceful_shutdown=1
            )
        )
        print(f'{len(cases.groups)} cases: {address}\nStop with Ctrl-C', flush=True)
        if browser:
            webbrowser.open(address)
        asyncio.run(server.serve(sockets=[listener]))


def _listen(port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ValueError(f'--port: expected a number from 0 to {2**16 - 1}, got {port}')
    try:
        return socket.create_server((HOST, port))
    except OSError as error:
        raise OSError(
            f'--port: expected a free port, got {port} ({error.strerror}). Choose another one, or '
            '0 for any free one'
        ) from error


def _is_served(path: str) -> bool:
    if '..' in path or '\\' in path:
        return False
    if path.startswith('/gradio_api/'):
        return path.split('/')[2] in _API
    return path in ('/', '/config', '/favicon.ico') or path.startswith(_PREFIXES)


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(key.lower().encode(), value.encode()) for key, value in headers.items()]


async def _answer(
    send: Send, status: int, text: str, headers: dict[str, str] | None = None
) -> None:
    """Send a short answer."""
    own = {**_HEADERS, 'Content-Type': 'text/plain; charset=utf-8', **(headers or {})}
    await send(dict(type='http.response.start', status=status, headers=_encoded(own)))
    await send(dict(type='http.response.body', body=text.encode()))
