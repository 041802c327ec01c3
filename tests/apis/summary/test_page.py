import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from mmkdml.apis import write_summary


class Page(HTMLParser):
    """Visible text, ids and addresses of a page."""

    def __init__(self, path):
        super().__init__()
        self.text, self.ids, self.links, self.tags = [], set(), [], []
        self.size = path.stat().st_size
        self._hidden = False
        self.feed(path.read_text(encoding='utf-8'))
        self.text = ' '.join(' '.join(self.text).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._hidden = tag in ('style', 'script')
        self.tags.append(tag)
        self.ids.add(attrs.get('id'))
        self.links += [attrs[key] for key in ('href', 'src') if key in attrs]

    def handle_data(self, data):
        if not self._hidden:
            self.text.append(data)


def page(run):
    return Page(write_summary(run))


def test_page_of_a_classroom(write_run):
    record = dict(
        status='finished', epoch=3, iter=12, max_epochs=3, by_epoch=True, command='python x.py',
        start='2026-01-01T00:00:00+00:00', end='2026-01-01T00:03:20+00:00',
        members=[dict(name='teacher', network='ResNet', parameters=1234567, trained=False)],
        transfers=[dict(source='teacher', learner='student_1', weight='0.45')],
        environment=dict(device='A GPU', precision='bfloat16', versions=dict(torch='9.9')),
        classes=['healthy', 'ill'], data=dict(
            train=dict(images=20, labels={'0': 12, '1': 8}),
            val=dict(images=9, names=dict(RBC=7, WBC=2)),
        ),
    )  # fmt: skip
    run = write_run(record=record)
    found = page(run)
    for fact in (
        'finished', '3 of 3 epochs', '3 min 20 s', '1,234,567', 'no, frozen', '0.45', 'A GPU',
        'torch 9.9', 'healthy 12, ill 8', 'RBC 7, WBC 2',
        'python x.py', "type='Classroom'", 'abababababab',
    ):  # fmt: skip
        assert fact in found.text, fact
    assert {'results', 'curves', 'trained', 'data', 'environment', 'command'} <= found.ids
    assert {link[1:] for link in found.links} <= found.ids
    assert found.size < 100_000


@pytest.mark.parametrize(
    ('record', 'facts'),
    [
        (
            dict(status='stopped', epoch=1, iter=7, max_epochs=3, by_epoch=True),
            ['interrupted', '1 of 3 epochs (iteration 7)', 'resumed 1 time'],
        ),
        (
            dict(status='failed', epoch=0, iter=3, max_epochs=3, by_epoch=True, error='E: <b>'),
            ['failed', '0 of 3 epochs', 'E: <b>'],
        ),
        (dict(status='running', max_epochs=3, by_epoch=True), ['not finished', '1 of 3 epochs']),
        ({}, ['not finished', '1 of 3 epochs', 'not recorded']),
    ],
)
def test_page_of_an_incomplete_run(write_run, record, facts):
    found = page(write_run(starts=(0, 3), end=7, validate=False, record=record))
    for fact in facts:
        assert fact in found.text, fact
    assert 'results' not in found.ids


def test_page_without_a_logged_step_or_validation(write_run):
    run = write_run(
        losses={}, end=0, validate=False, record=dict(status='failed', error='in iteration 3')
    )
    found = page(run)
    assert 'in iteration 3' in found.text
    assert 'No validation' in found.text


def test_page_of_a_baseline(write_run):
    found = page(write_run(losses={'head.loss': 2.0}, members=('model',), measure='accuracy/top1'))
    assert 'The network has an accuracy of 12.0 %' in found.text
    assert 'No transfers' in found.text
    assert found.tags.count('svg') == 3


def test_page_of_a_classroom_with_four_students(write_run):
    names = [f'own_{number}' for number in range(4)]
    losses = {f'{name}.head.loss': 1.0 for name in names}
    losses |= {f'{a}.loss_from_{b}.features': 0.1 for a in names for b in names if a != b}
    found = page(write_run(losses=losses, members=(*names, 'ensemble')))
    for name in names:
        assert f'Losses of {name}' in found.text
    assert 'the best student (own_3)' in found.text
    assert found.size < 150_000


def test_text_is_escaped_and_secrets_are_hidden(write_run):
    evil = '<script>alert(1)</script>'
    record = dict(
        status='failed', error=evil, command=evil, classes=[evil, 'b'],
        data=dict(train=dict(images=1, labels={'0': 1}, file=evil)),
        environment=dict(device=evil, versions={evil: evil}),
        members=[dict(name=evil, network=evil)],
    )  # fmt: skip
    losses = {f'{evil}.loss_from_t.features': 1.0}
    run = write_run(losses=losses, members=('t', evil, 'ensemble'), record=record)
    (run / 'own.py').write_text(f"a = '{evil}'\nvis = dict(api_key='S3CRET')\n")
    html = write_summary(run).read_text()
    assert evil not in html
    assert html.count('&lt;script&gt;') > 5
    assert html.count('<script>') == 1
    assert 'S3CRET' not in html
    assert not re.search(r'(?:src|href)="(?!#|data:)', html)
    assert not re.search(r'url\((?!#)', html)


def test_pictures_are_embedded_and_small(write_run):
    run = write_run()
    pixels = np.random.default_rng(0).integers(0, 256, (300, 2000, 3)).astype(np.uint8)
    for name in ('panels/01_case.png', 'panels/panels.png', 'calibration/reliability.png'):
        (run / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.kron(pixels[::10, ::10], np.ones((10, 10, 1), np.uint8))).save(
            run / name
        )
    (run / 'panels' / '02_damaged.png').write_bytes(b'no image')
    found = page(run)
    assert found.tags.count('img') == 2
    assert {'panels', 'reliability'} <= found.ids
    assert found.size < 300_000


def test_existing_page_is_replaced_and_links_are_not_followed(write_run, tmp_path):
    run = write_run()
    (tmp_path / 'other').write_text('other')
    (run / 'summary.html').symlink_to(tmp_path / 'other')
    with pytest.warns(UserWarning, match='summary.html is a link'):
        write_summary(run)
    write_summary(run)
    assert (tmp_path / 'other').read_text() == 'other'
    assert not list(run.glob('*.part'))


def test_folders_that_are_no_runs_raise(tmp_path):
    with pytest.raises(FileNotFoundError, match='x is not a folder'):
        write_summary(tmp_path / 'x')
    with pytest.raises(ValueError, match='expected the folder of a run'):
        write_summary(tmp_path)
    assert not list(tmp_path.iterdir())
