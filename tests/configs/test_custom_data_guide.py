"""docs/custom_data.md, executed with synthetic data up to a training step."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.commands import command_tools
from mmkdml.datasets import read_split
from mmkdml.datasets.coco_json import Box, BoxImage, coco_json
from mmkdml.registry import DATASETS, MODELS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / 'docs' / 'custom_data.md').read_text()
COMMANDS = re.findall(r'^    (mmkdml (?:.*\\\n)*.*)$', GUIDE, re.MULTILINE)
BLOCKS = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def run(command):
    _, group, name, *sys.argv[1:] = shlex.split(command.replace('\\\n', ''))
    runpy.run_path(str(command_tools()[f'{group} {name}']), run_name='__main__')


def write_cells(path):
    """Write a box for each image of cells but those of a patient."""
    images = [
        BoxImage(n, f'P{n // 2}/{n % 2}.png', (56, 40), (Box(n % 2, (5, 5, 30, 30)),) * (n < 8))
        for n in range(10)
    ]
    path.write_bytes(coco_json(('red', 'white'), images))


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """Create the configs and data of the guide, and run its converters."""
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', ['tool'])
    rng = np.random.default_rng(0)
    for patient in range(5):
        for view in range(2):
            image = rng.integers(0, 256, (40, 56, 3))
            for name in ('fat', 'mucus', 'tumour'):
                save(Path(f'data/tiles/{name}/P{patient}-{view}.png'), image)
            save(Path(f'data/polyps/images/P{patient}/{view}.jpg'), image)
            save(Path(f'data/cells/images/P{patient}/{view}.png'), image)
            mask = 255 * (image[..., 0] > 99 * view)
            save(Path(f'data/polyps/masks/P{patient}/{view}_mask.png'), mask)
            save(Path(f'data/organs/images/P{patient}/{view}.png'), image)
            organs = np.array([0, 1, 2, 255])[image[..., 0] // 64]
            save(Path(f'data/organs/masks/P{patient}/{view}.png'), organs)
            save(Path(f'data/mri/masks/P{patient}/{view}.png'), mask)
            Path(f'data/mri/images/P{patient}').mkdir(parents=True, exist_ok=True)
            sequences = rng.integers(0, 900, (40, 56, 4)).astype(np.float32)
            np.save(f'data/mri/images/P{patient}/{view}.npy', sequences)
    write_cells(Path('data/cells/boxes.json'))
    lines = ['Image Index,Finding Labels,Patient ID']
    for place, found in enumerate(('Mass|Nodule', 'No Finding', 'Effusion', 'Mass')):
        save(Path(f'data/xrays/images_001/images/{place}.png'), rng.integers(0, 256, (40, 56)))
        lines.append(f'{place}.png,{found},{place}')
    Path('data/xrays/Data_Entry_2017.csv').write_text('\n'.join(lines))
    table = re.search(r'^    name,value,r,g,b\n(    .*\n)+', GUIDE, re.MULTILINE)[0]
    Path('data/organs/classes.csv').write_text(table.replace('    ', ''))
    for command in COMMANDS:
        if 'convert' in command:
            run(command)
    tiles, xrays, polyps, organs, size, cells, _, mri = BLOCKS
    Path('configs/kdml_v1_cells.py').write_text(cells)
    Path('configs/kdml_v3_mri.py').write_text(mri)
    Path('configs/kdml_v3_tiles.py').write_text(tiles)
    Path('configs/kdml_v3_xrays.py').write_text(xrays)
    Path('configs/kdml_v3_organs.py').write_text(organs + size.replace('128', '64'))
    Path('configs/kdml_v3_polyps.py').write_text(polyps + size.replace('128', '64'))
    return tmp_path


def test_commands_name_existing_tools():
    used = [' '.join(command.split()[1:3]) for command in COMMANDS]
    assert used.count('convert folders') == 4
    assert all(one in command_tools() or one.split()[0] in command_tools() for one in used)
    assert len(BLOCKS) == 8


def test_guide_reads_several_classes_per_image(clone):
    config = load_config('configs/kdml_v3_xrays.py')
    for network in (config.model.teacher, *config.model.students):
        assert network.head.num_classes == 3
        assert network.head.loss.use_sigmoid is True
    found = {}
    for part in ('train', 'val', 'test'):
        dataset = DATASETS.build(config[f'{part}_dataloader'].dataset)
        samples = [dataset[index]['data_samples'] for index in range(len(dataset))]
        found.update({one.id[-1]: one.gt_label.tolist() for one in samples})
    assert found == {'0': [1, 2], '1': [], '2': [0], '3': [1]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'classes'),
    [
        ('tiles', ('fat', 'mucus', 'tumour')),
        ('cells', ('red', 'white')),
        ('polyps', ('background', 'polyp')),
        ('organs', ('background', 'liver', 'kidney')),
        ('mri', ('background', 'tumour')),
    ],
)
@pytest.mark.usefixtures('recycled_noise')
def test_guide_trains_on_custom_data(clone, name, classes):
    (path,) = Path('configs').glob(f'kdml_v?_{name}.py')
    config = load_config(path)
    # The guide evaluates this work_dir.
    assert config.work_dir == f'work_dirs/configs/{path.stem}'
    if name == 'tiles':
        assert f'mmkdml test {config.work_dir}' in COMMANDS
    groups = []
    for part in ('train', 'val', 'test'):
        loader = config[f'{part}_dataloader']
        loader.update(batch_size=2, num_workers=0, persistent_workers=False)
        dataset = Runner.build_dataloader(loader, seed=0).dataset
        assert tuple(dataset.metainfo['classes']) == classes
        groups.append({dataset.get_data_info(i)['group'] for i in range(len(dataset))})
        shapes = dict(tiles=(3, 224, 224), polyps=(3, 64, 64), mri=(4, 256, 256))
        shapes |= dict(organs=(3, 64, 64), cells=(3, 457, 640))
        assert dataset[0]['inputs'].shape == shapes[name]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 5  # patients stay together
    if name in ('cells', 'mri'):  # a step at their size takes long
        for step in config.train_dataloader.dataset.pipeline:
            if 'scale' in step:
                step.update(scale=(128, 128))
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    losses = model.train().train_step(batch, build_optim_wrapper(model, config.optim_wrapper))
    assert all(value.isfinite() for value in losses.values())
    predicted = model.eval().val_step(batch)[0]
    if name == 'tiles':
        assert predicted.pred_score.shape == (3,)


def test_split_files_of_the_guide_are_valid(tmp_path):
    headers = re.findall(r'^    (id,\S+) +#', GUIDE, re.MULTILINE)
    assert len(headers) == 4
    values = dict(id='a', path='a.png', mask='m.png', group='g', label='1', repeats='2')
    values['labels'] = 'Mass|Nodule'
    for header in headers:
        line = ','.join(values[column] for column in header.split(','))
        (tmp_path / 'split.csv').write_text(f'{header}\n{line}\n')
        assert read_split(tmp_path / 'split.csv')[0].repeats == 1 + ('repeats' in header)
