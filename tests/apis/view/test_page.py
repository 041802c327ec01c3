"""Steps through cases, and the page in Chromium."""

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from mmkdml.apis import Answer
from mmkdml.apis.view.page import Page
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.apis.view.tiles import Display

ROOT = Path(__file__).parents[3]
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)


class Volumes:
    """Cases whose slices differ by the foreground of the ensemble, and one that is damaged."""

    has_truth = True
    sizes = dict(a=[3], b=[0, 2, 5, 1], c=[0, 0, 0], d=[9])

    def __init__(self):
        self.groups = {name: name for name in [*self.sizes, 'broken']}
        self.loaded = []

    def load(self, name):
        self.loaded.append(name)
        if name == 'broken':
            raise ValueError('broken.png is damaged')
        for size in self.sizes[name]:
            label = np.zeros((4, 4), np.uint8)
            label.flat[:size] = 1
            answers = dict(
                student_1=Answer(label * 0, np.zeros((1, 4, 4))),
                student_2=Answer(label, np.zeros((1, 4, 4))),
                ensemble=Answer(label, np.zeros((1, 4, 4))),
            )
            yield ViewSlice(np.zeros((4, 4, 3), np.uint8), answers, label * 0)


@pytest.fixture
def page(segmentor):
    return Page(segmentor, Volumes())


def test_volume_opens_at_the_slice_with_the_most_foreground(page):
    assert page.open('a') == (1, 0)
    assert page.open('b') == (4, 2)
    assert page.open('c') == (3, 1)
    assert '5 px' in page.draw('b', 2, Display(page.members))
    assert '1 px' in page.draw('b', 99, Display(page.members))
    assert page._cases.loaded == [*'abc']


def test_steps_in_the_order_of_the_cases(page):
    assert page.step('a', '', 1) == ('b', 'Case 2 of 5')
    assert page.step('a', '', -1) == ('broken', 'Case 5 of 5')
    assert page.step('broken', '', 1) == ('a', 'Case 1 of 5')
    assert page._cases.loaded == []


def test_steps_to_the_next_hard_case(page):
    """Shares of differing pixels: a 3/16, b 8/64, c 0, d 9/16; IoU is 0 except for c."""
    name, note = page.step('a', 'disagreement', 0)
    assert (name, note) == ('d', 'Case 1 of 4; 1 failed: broken.png is damaged')
    order = [name]
    while (name := page.step(name, 'disagreement', 1)[0]) != 'd':
        order.append(name)
    assert order == [*'dabc']
    assert page.step('broken', 'disagreement', 1)[0] == 'd'
    assert page.step('d', 'disagreement', -1)[0] == 'c'
    assert page.step('d', 'worst', 1)[0] == 'c'
    assert sorted(page._cases.loaded) == ['a', 'b', 'broken', 'broken', 'c', 'd']


def test_orders_that_are_possible(page, predictors):
    assert list(page.orders.values()) == ['', 'disagreement', 'worst']
    page._cases.has_truth = False
    assert list(page.orders.values()) == ['', 'disagreement']
    page._students = ('student_1',)
    assert list(page.orders.values()) == ['']
    assert Page(predictors['kdml_v3_demo_slices'], Volumes()).classes == ('healthy', 'ill')


@pytest.fixture(scope='module')
def server(checkpoints, slices):
    """Address of a viewer of synthetic slices, and its process."""
    pytest.importorskip('gradio')
    config, checkpoint = next(iter(checkpoints.items()))
    source, split = slices
    dataset = 'test_dataloader.dataset'
    words = [config, checkpoint, '--no-browser', '--port', 0, '--device', 'cpu']
    words += ['--cfg-options', f'{dataset}.data_root={source}', f'{dataset}.ann_file={split}']
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    process = subprocess.Popen(
        [sys.executable, ROOT / 'tools' / 'view.py', *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )
    signal.signal(signal.SIGINT, before)
    address = re.search(r'http://127\.0\.0\.1:\d+/\?token=\S+', process.stdout.readline())
    yield address and address[0], process
    process.kill()
    process.communicate()


@pytest.fixture(scope='module')
def browser():
    playwright = pytest.importorskip('playwright.sync_api')
    if CHROMIUM is None:
        pytest.skip('no Chromium in PATH (on Debian: apt-get install chromium)')
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.mark.slow
@pytest.mark.parametrize('size', [(1440, 900), (1280, 720)])
def test_clicks(server, browser, size):
    address, _ = server
    page = browser.new_page(viewport=dict(zip(('width', 'height'), size, strict=True)))
    page.set_default_timeout(60_000)
    problems, origin = [], address.partition('?')[0]
    page.on('console', lambda one: one.type == 'error' and problems.append(one.text))
    page.on('pageerror', lambda one: problems.append(str(one)))
    page.on(
        'request', lambda one: one.url.startswith((origin, 'data:')) or problems.append(one.url)
    )
    page.goto(address)
    names = page.locator('.tiles figcaption b')
    member = ['teacher', 'student_1', 'student_2', 'ensemble']
    names.first.wait_for()
    assert names.all_inner_texts() == ['image', 'truth', *member, 'disagreement']
    assert page.url == origin  # without the token

    def picture(name='ensemble'):
        return page.get_by_role('img', name=name, exact=True).get_attribute('src')

    def changed(action, name='ensemble'):
        before = picture(name)
        action()
        page.wait_for_function(
            '([name, before]) => document.querySelector(`img[alt="${name}"]`).src != before',
            arg=[name, before],
        )

    first = page.locator('#case input').input_value()
    changed(lambda: page.get_by_role('button', name='Next').click(), 'image')
    assert page.locator('#note').inner_text().strip() == 'Case 2 of 16'
    changed(lambda: page.get_by_role('button', name='Previous').click(), 'image')
    assert page.locator('#case input').input_value() == first
    changed(lambda: page.get_by_label('heat map').check())
    changed(lambda: page.locator('#opacity input[type=range]').fill('1'))
    changed(lambda: page.locator('#width input[type=range]').fill('100'), 'image')
    page.get_by_label('teacher').uncheck()
    page.locator('.tiles img[alt=teacher]').wait_for(state='detached')
    assert names.all_inner_texts() == ['image', 'truth', *member[1:], 'disagreement']
    page.get_by_label('JS divergence').check()
    page.get_by_text(re.compile(r'mean 0\.\d{4} bits')).wait_for()
    page.locator('#order input').click()
    page.get_by_role('option', name='disagreement of the students').click()
    page.get_by_role('button', name='Next hard case').click()
    page.get_by_text('Case 2 of 16').wait_for()
    assert page.evaluate('document.documentElement.scrollWidth') <= size[0]
    assert page.locator('input[type=file]').count() == 0
    page.context.close()
    assert problems == []


@pytest.mark.slow
def test_no_file_is_served_and_ctrl_c_ends(server):
    address, process = server
    origin, _, query = address.partition('?')
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    assert opener.open(f'{origin}?{query}').status == 200
    for file in (str(ROOT / 'setup.py'), '/etc/passwd'):
        for route in ('gradio_api/file=', 'file=', 'gradio_api/file', 'gradio_api/queue/../file='):
            with pytest.raises(urllib.error.HTTPError, match='404'):
                opener.open(f'{origin}{route}{file}')
    with pytest.raises(urllib.error.HTTPError, match='404'):
        opener.open(f'{origin}gradio_api/upload', b'content')
    with pytest.raises(urllib.error.HTTPError, match='403'):
        urllib.request.urlopen(origin)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert (process.returncode, errors) == (130, 'view.py: interrupted\n')
