"""Links, paths and code references of the documentation lead somewhere; needs no Sphinx."""

import re
import runpy
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmkdml.inspection import inspect_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / 'docs'
# Not a package: Sphinx imports its extensions from this folder.
code_lines = SimpleNamespace(**runpy.run_path(str(DOCS / '_ext' / 'code_lines.py')))

PAGES = sorted(
    [
        *DOCS.glob('*.md'),
        *DOCS.glob('reference/*'),
        *DOCS.glob('studies/*.md'),
        *(ROOT / name for name in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md')),
    ]
)
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]
# Files that a reader would write; there are no configs outside of folders.
OWN = re.compile(r'configs/\w+\.py|tools/count_images\.py|mmkdml/.*(huber|kvasir|specificity).*')


def anchors(page):
    """Return the anchors of a page's headings, as GitHub and MyST build them."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_links(page):
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        path, _, anchor = target.partition('#')
        if '://' in target or path.startswith('mailto:'):
            continue
        linked = (page.parent / path) if path else page
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize('page', PAGES, ids=NAMES)
def test_paths_in_code_exist(page):
    written = re.findall(
        r'(?<![\w/])(?:configs|suites|tools|benchmarks|docs|mmkdml)/[\w./-]+\.(?:py|sh|md|csv)\b',
        page.read_text(),
    )
    assert [path for path in written if not (ROOT / path).is_file() and not OWN.match(path)] == []


def code_references():
    pages = [page for page in PAGES if page.suffix == '.md']
    return [one for page in pages for one in re.findall(r'\{line\}`([^`]+)`', page.read_text())]


@pytest.mark.parametrize('reference', sorted(set(code_references())))
def test_code_references(reference):
    path, number = code_lines.find_line(reference)
    code = reference.partition('::')[2]
    assert code in (ROOT / path).read_text().splitlines()[number - 1]


def test_the_paper_is_covered():
    text = (DOCS / 'paper_to_code.md').read_text()
    equations, tables, figures = (
        {
            int(number)
            for row in re.findall(r'^\| ([\d, ]+) \|', part, re.MULTILINE)
            for number in row.split(',')
        }
        for part in re.split(r'^## (?:Tables|Figures)$', text, flags=re.MULTILINE)
    )
    assert equations == set(range(1, 16))
    assert tables == set(range(1, 16))
    assert figures == set(range(1, 12))


@pytest.mark.parametrize('reference', ['mmkdml.functional.feature_mse::no such code', 'x'])
def test_outdated_code_references(reference):
    with pytest.raises(ValueError, match='nvalid code reference'):
        code_lines.find_line(reference)


def test_public_names_are_where_they_are_defined():
    names = code_lines.public_names(('mmkdml.analysis', 'mmkdml.inspection'))
    assert names['measure_cka'] == 'mmkdml.analysis.measure_cka'
    assert names['inspect_config'] == 'mmkdml.inspection.inspect_config'
    assert code_lines.find_object(names['inspect_config']) is inspect_config


def test_every_folder_of_configs_is_listed():
    listed = re.findall(r'{config-list} (\w+)', (DOCS / 'reference' / 'configs.md').read_text())
    folders = {path.name for path in (ROOT / 'configs').iterdir() if path.is_dir()}
    assert {*listed} == folders - {'_base_', '__pycache__'}


def my_configs():
    text = (DOCS / 'coming_from.md').read_text()
    return dict(re.findall(r'`configs/(my_\w+\.py)`:\n\n```python\n(.*?)```', text, re.DOTALL))


@pytest.mark.parametrize(
    ('name', 'rows'),
    {
        'my_fitnet.py': [  # inherits my_kd.py
            ('predictions', 1.0, 'PredictionKLLoss'),
            ('features', 100.0, 'FitNetLoss'),
        ],
        'my_cwd.py': [('predictions', 5.0, 'ChannelWiseLoss')],
    }.items(),
)
def test_configs_next_to_those_of_other_packages(name, rows, tmp_path):
    (tmp_path / '_base_').symlink_to(ROOT / 'configs' / '_base_')
    for file, code in my_configs().items():
        (tmp_path / file).write_text(code)
    transfers = inspect_config(Config.fromfile(tmp_path / name)).distiller.transfers
    assert [(row.knowledge, row.weight, row.columns()[5]) for row in transfers] == rows


# Addresses in the official documentation, looked up there.
@pytest.mark.parametrize(
    ('project', 'name', 'address'),
    [
        ('torch', 'torch.Tensor', 'tensors.html#$'),
        ('torch', 'torch.device', 'tensor_attributes.html#$'),
        ('torch', 'torch.nn.Module', 'generated/torch.nn.Module.html#$'),
        ('torch', 'torch.utils.data.DataLoader', 'data.html#$'),
        (
            'mmengine',
            'mmengine.hooks.CheckpointHook',
            'api/generated/mmengine.hooks.CheckpointHook.html#$',
        ),
        (
            'mmpretrain',
            'mmpretrain.models.heads.LinearClsHead',
            'api/generated/mmpretrain.models.heads.LinearClsHead.html#$',
        ),
        (
            'mmpretrain',
            'mmpretrain.evaluation.Accuracy',
            'api/generated/mmpretrain.evaluation.Accuracy.html#$',
        ),
        ('mmseg', 'mmseg.models.backbones.ResNet', 'api.html#$'),
    ],
)
def test_inventories(project, name, address):
    data = (DOCS / 'inventories' / f'{project}.inv').read_bytes()
    body = zlib.decompress(data.split(b'\n', 4)[4]).decode()
    addresses = {row.split()[0]: row.split()[3] for row in body.splitlines()}
    assert addresses[name] == address


def test_every_page_is_in_a_table_of_contents():
    listed = re.findall(r'```\{toctree\}(.*?)```', (DOCS / 'index.md').read_text(), re.DOTALL)
    names = {line for block in listed for line in block.split('\n')[1:] if line[:1].isalpha()}
    assert {page.stem for page in DOCS.glob('*.md')} - names == {'index'}
