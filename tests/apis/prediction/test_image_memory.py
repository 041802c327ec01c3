"""Peak memory of reading and preparing image files, measured in a separate process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

CONFIG = Path(__file__).parents[3] / 'configs' / 'kdml' / 'r50_r18x2_v3_lgg.py'
MEASURED = """
import resource, sys
from mmkdml.apis import load_config
from mmkdml.apis.prediction.image_pipeline import ImagePipeline
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources
from mmkdml.apis.prediction.prepared import prepared_cases, read_cases
from mmkdml.datasets import LoadBinaryMask, LoadCheckedImage
from mmkdml.datasets.images import read_header, read_image

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

def predict(path):
    cases = prepared_cases(
        read_cases(find_sources(path), ReadOptions(), None, False),
        ImagePipeline(load_config({config!r})),
        None,
    )
    return sum(len(item) // 4 for case in cases for item in case)

small, many, stack = sys.argv[1:]
uses = dict(
    training=lambda path: LoadCheckedImage()(dict(img_path=path)),
    mask=lambda path: LoadBinaryMask()(dict(seg_map_path=path, img_path=path, seg_fields=[])),
    header=read_header,
    prediction=predict,
)
for use in uses.values():  # warm up, because libraries allocate memory on first use
    try:
        use(small)
    except ValueError:
        pass
uses['stack'] = lambda _: predict(stack)
for name, use in uses.items():
    before = peak()
    try:
        found = str(use(many))[:30]
    except ValueError as error:
        found = f'refused: {{error}}'
    print(f'{{name}}|{{peak() - before}}|{{found}}')
"""


def write_stack(path, pages, side=64):
    """Write a gray TIFF whose pages share the same pixels."""
    area = side * side
    tags = {256: side, 257: side, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: side, 279: area}
    entry = np.dtype([('tag', '<u2'), ('type', '<u2'), ('count', '<u4'), ('value', '<u4')])
    page = np.dtype([('entries', '<u2'), ('tags', entry, len(tags)), ('next', '<u4')])
    table = np.zeros(pages, page)
    table['entries'] = len(tags)
    table['tags'] = np.array([(tag, 4, 1, value) for tag, value in tags.items()], entry)
    table['next'][:-1] = 8 + area + page.itemsize * np.arange(1, pages)
    head = b'II*\0' + np.array([8 + area], '<u4').tobytes()
    path.write_bytes(head + bytes(area) + table.tobytes())


@pytest.mark.slow
def test_many_pages_in_a_small_file_use_little_memory(tmp_path):
    """100,000 pages raise; 600 prepared pages would take 113 MiB at once."""
    files = {'small': 2, 'many': 100_000, 'stack': 600}
    for name, pages in files.items():
        write_stack(tmp_path / f'{name}.tif', pages)
    done = subprocess.run(
        [sys.executable, '-c', MEASURED.format(config=str(CONFIG))]
        + [tmp_path / f'{name}.tif' for name in files],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split('|') for line in done.stdout.splitlines() if line.count('|') == 2]
    growth = {name: int(mebibytes) for name, mebibytes, _ in lines}
    found = {name: text for name, _, text in lines}
    for name in ('training', 'mask'):
        assert 'several pages or frames' in found[name]
    assert 'at most 5000 pages, got more' in found['prediction']
    assert found['stack'] == '600'
    assert len(growth) == 5
    assert max(growth.values()) < 40, growth
