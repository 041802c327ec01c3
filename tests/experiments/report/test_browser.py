"""The report in Chromium: sorting, filtering, switching, enlarging, themes, small screens."""

import shutil

import pandas as pd
import pytest
from PIL import Image

from mmkdml.experiments.report.html import write_report
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

playwright = pytest.importorskip('playwright.sync_api')
CHROMIUM = next(
    filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason='no Chromium in PATH (on Debian: apt-get install chromium)'
)
WIDTHS = (390, 768, 1920)
KD = ('teacher', 'student_1', 'student_2', 'ensemble')
LONG = 'a_run_with_a_very_long_name_that_does_not_fit_on_the_screen_of_a_telephone'
RESULTS, CLAIMS, GALLERY = '#suite-1-tables', '#suite-1-claim-tables', '#suite-1-gallery'


def run(name, seed, mode, style, hits, pictures=()):
    """Run that hits ``hits`` of 100 pixels per image; F1 and the last checkpoint differ."""
    members = ('model',) if mode == 'baseline' else KD[mode == 'ml' :]
    rows = [
        (member, f'{group}{image}', group, 1, hits + seed, 5, 100 - hits - seed)
        for member in members
        for group in 'abc'
        for image in range(2)
    ]
    cases = pd.DataFrame(rows, columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])
    # In the opposite order.
    last = cases.assign(tp=100 - cases['tp'], fn=100 - cases['fn'])
    curves = [(epoch, f'{members[-1]}/foreground/IoU', 10.0 * epoch) for epoch in (1, 2)]
    metadata = dict(
        config='a.py', config_text='a = 1\n' * 50, command='python tools/train.py ' + 'x' * 300,
        seconds=9, device='CPU', versions=dict(torch='2'), input_size=[64, 64],
        splits=dict(test=dict(images=6)), checkpoints=dict(best=1, last=2),
        members={name: dict(parameters=9, flops=9) for name in members if name != 'ensemble'},
    )  # fmt: skip
    return RunRecord(
        name,
        seed,
        mode,
        style,
        'done',
        measured=dict(best=Measurement({}, cases), last=Measurement({}, last)),
        curves=pd.DataFrame(curves, columns=['epoch', 'key', 'value']),
        metadata=metadata,
        pictures={
            f'panels/0{place}_{case}.png': path for place, (case, path) in enumerate(pictures)
        },
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('report')


@pytest.fixture(scope='module')
def record(folder):
    Image.new('RGB', (300, 60), 'gray').save(folder / 'a.png')
    pictures = [('a0', folder / 'a.png'), ('b1', folder / 'a.png')]
    runs = [
        run(name, seed, mode, style, hits, pictures)
        for name, mode, style, hits in (
            ('r50', 'baseline', '', 60), ('ml_v1', 'ml', 'v1', 40),
            ('kd_on_v1', 'kd_on', 'v1', 80), (LONG, 'kdml', 'v1', 50),
        )
        for seed in (0, 1)
    ]  # fmt: skip
    return SuiteRecord('mini', 'A small study', ('IoU', 'F1'), ('Table 4',), runs)


@pytest.fixture(scope='module')
def address(record, folder):
    return write_report(record, folder / 'report.html', resamples=20).as_uri()


@pytest.fixture(scope='module')
def large(record, folder):
    """Address of the report as that of a large suite, whose tables are compressed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('mmkdml.experiments.report.sections.LARGE', 1)
        return write_report(record, folder / 'large.html').as_uri()


@pytest.fixture(scope='module')
def browser():
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, address):
    """Open the report; errors and requests of the page fail the test."""
    contexts, problems = [], []

    def open_page(width=1280, address=address, **options):
        contexts.append(browser.new_context(viewport=dict(width=width, height=900), **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on('console', lambda message: problems.append(message.text))
        page.on('pageerror', lambda error: problems.append(str(error)))
        page.on(
            'request',
            lambda one: one.url.startswith(('file:', 'data:')) or problems.append(one.url),
        )
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def names(page, container=RESULTS):
    """Return the first cells of the rows that are visible."""
    rows = page.locator(f'{container} tbody tr:not(.group):visible')
    return rows.locator('th').all_inner_texts()


def status(page):
    return page.get_by_role('status').first.inner_text()


def test_sorting_by_keyboard(open_page):
    page = open_page()
    assert names(page) == ['r50', 'ml_v1', 'kd_on_v1', LONG]
    header = page.locator(f'{RESULTS} th:visible', has_text='Ensemble or single network')
    header.get_by_role('button').focus()
    page.keyboard.press('Enter')
    assert names(page) == ['kd_on_v1', 'r50', LONG, 'ml_v1']
    assert header.get_attribute('aria-sort') == 'descending'
    assert status(page) == 'Sorted by Ensemble or single network, descending'
    page.keyboard.press('Space')
    assert names(page) == ['ml_v1', LONG, 'r50', 'kd_on_v1']
    assert header.get_attribute('aria-sort') == 'ascending'
    # The table of the other measure has the same order.
    page.locator('[data-switch=suite-1-tables][data-key=metric][value=F1]').check()
    assert names(page) == ['ml_v1', LONG, 'r50', 'kd_on_v1']
    # Missing values are last in both orders.
    teacher = page.locator(f'{RESULTS} th:visible').get_by_role(
        'button', name='Teacher', exact=True
    )
    for _ in range(2):
        teacher.click()
        assert sorted(names(page)[2:]) == ['ml_v1', 'r50']


def test_filtering(open_page):
    page = open_page()
    page.get_by_role('searchbox').first.fill('KD_ON')
    assert names(page) == ['kd_on_v1']
    assert status(page) == '1 of 4 shown'
    page.get_by_role('searchbox').first.fill('')
    page.get_by_label('Mode').first.select_option('KD + mutual learning')
    assert names(page) == [LONG]
    page.get_by_label('Claim', exact=True).select_option('Ensemble vs. teacher')
    assert all('better than the teacher' in name for name in names(page, CLAIMS))
    assert page.locator(f'{CLAIMS} tr.group:visible').count() == 1


def test_switching(open_page):
    page = open_page()
    tables = page.locator(f'{RESULTS} table:visible')
    assert tables.count() == 1
    assert 'IoU (%), best on the validation set' in tables.inner_text()
    page.locator('[data-switch=suite-1-tables][data-key=checkpoint][value=last]').check()
    assert status(page) == 'Showing last'
    assert tables.count() == 1
    assert 'IoU (%), after the last epoch' in tables.inner_text()
    assert page.locator(f'{CLAIMS} table:visible').count() == 1


def test_enlarging(open_page):
    page = open_page()
    page.get_by_label('Run', exact=True).select_option('ml_v1')
    page.get_by_label('Patient or lesion').select_option('b')
    figures = page.locator(f'{GALLERY} figure:visible')
    assert figures.locator('figcaption').all_inner_texts() == ['Predictions: ml_v1, seed 0, b1']
    page.get_by_label('Patient or lesion').select_option('all')
    first = page.get_by_role('button', name='Enlarge: Predictions: ml_v1, seed 0, a0')
    first.focus()
    page.keyboard.press('Enter')
    box = page.get_by_role('dialog')
    assert 'a0' in box.inner_text()
    assert box.locator('img').bounding_box()['width'] > figures.first.bounding_box()['width']
    page.keyboard.press('ArrowRight')
    assert 'b1' in box.inner_text()
    page.keyboard.press('Escape')
    assert not box.is_visible()
    assert first.evaluate('node => node === document.activeElement')


def test_themes(open_page):
    page = open_page(color_scheme='dark')
    colors = []
    for theme in ('system', 'light', 'dark'):
        assert page.locator('#theme').inner_text() == f'Theme: {theme}'
        colors.append(page.evaluate('getComputedStyle(document.body).backgroundColor'))
        page.locator('#theme').click()
    assert colors == ['rgb(20, 23, 28)', 'rgb(255, 255, 255)', 'rgb(20, 23, 28)']
    page.emulate_media(media='print')
    assert page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)'
    assert not page.get_by_role('navigation').is_visible()
    assert page.locator(f'{RESULTS} table:visible').count() == 1


def test_everything_is_readable_without_scripts(open_page):
    page = open_page(java_script_enabled=False)
    assert page.locator(f'{RESULTS} table:visible').count() == 4
    assert page.locator(f'{CLAIMS} table:visible').count() == 4
    assert page.locator('figure:visible').count() == page.locator('figure').count() == 9
    assert page.locator('.control:visible').count() == 0


@pytest.mark.parametrize('width', WIDTHS)
def test_page_fits_on_the_screen(open_page, width):
    page = open_page(width)
    page.locator('details').evaluate_all('all => all.forEach((one) => { one.open = true; })')
    size = 'document.documentElement.scrollWidth'
    assert page.evaluate(size) <= width
    first = page.locator(f'{RESULTS} .scroll:visible')
    if width == min(WIDTHS):
        # The table scrolls inside its region, and the names stay.
        first.evaluate('node => { node.scrollLeft = 300; }')
        box = page.locator(f'{RESULTS} th.stick:visible').nth(1).bounding_box()
        assert abs(box['x'] - first.bounding_box()['x']) < 2
        assert 100 < box['width'] < width / 2


def test_controls_have_names(open_page):
    page = open_page()
    lines = [line.strip() for line in page.locator('body').aria_snapshot().splitlines()]
    named = ('button', 'combobox', 'searchbox', 'radio', 'table', 'region', 'img', 'link')
    for role in named:
        own = [line for line in lines if line.startswith(f'- {role}')]
        assert own, role
        assert all(line.startswith(f'- {role} "') for line in own), role
    assert '- navigation "Contents":' in lines
    assert lines[0] == '- link "Skip to content":'
    page.keyboard.press('Tab')
    page.keyboard.press('Enter')
    assert page.evaluate('document.activeElement.id') == 'content'


def test_compressed_tables_are_inserted_sorted_and_filtered(open_page, large):
    page = open_page(address=large)
    results = page.locator(RESULTS)
    assert page.locator('.lazy').count() > 4
    results.scroll_into_view_if_needed()
    tables = page.locator(f'{RESULTS} table:visible')
    tables.wait_for()
    assert names(page) == ['r50', 'ml_v1', 'kd_on_v1', LONG]
    column = page.locator(f'{RESULTS} th:visible', has_text='Ensemble or single network')
    column.get_by_role('button').click()
    page.get_by_role('searchbox').first.fill('kd')
    assert names(page) == ['kd_on_v1', LONG]
    # The table of the other measure is inserted when it is shown, with the same order and filter.
    page.locator('[data-switch=suite-1-tables][data-key=metric][value=F1]').check()
    tables.wait_for()
    assert 'F1 (%)' in tables.inner_text()
    assert names(page) == ['kd_on_v1', LONG]
    assert 'loaded when' not in results.inner_text()


def test_compressed_curves_are_drawn(open_page, large):
    page = open_page(address=large)
    curves = page.locator('#suite-1-curves ~ .stack > details').first
    curves.locator('summary').first.press('Enter')
    chart = curves.locator('svg').first
    # Tables that are inserted above may move it out of view.
    curves.evaluate("""async (curves) => {
        for (let frame = 0; frame < 600 && !curves.querySelector('svg'); frame++) {
            curves.scrollIntoView();
            await new Promise(requestAnimationFrame);
        }
    }""")
    assert chart.bounding_box()['width'] > 100
    assert curves.locator('svg path, svg polyline').count() > 0


def test_without_scripts_compressed_tables_have_a_note(open_page, large):
    page = open_page(address=large, java_script_enabled=False)
    assert 'Without scripts, use the commands' in page.locator(RESULTS).inner_text()
