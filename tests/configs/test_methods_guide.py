"""docs/methods.md: examples train a step, tables match the configs."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper

from mmkdml.apis import load_config
from mmkdml.inspection import without_pretrained
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / 'docs' / 'methods.md').read_text()
EXAMPLES = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)


def build(config):
    """Build the classroom of a config at 64x64, with an untrained teacher."""
    settings = without_pretrained(config.model.to_dict())
    settings.update(frozen=dict(teacher=None), input_size=(64, 64))
    return MODELS.build(settings)


@pytest.mark.parametrize(
    ('example', 'ends'),
    [
        (0, ['predictions', 'features']),
        (1, ['predictions', 'features', 'predictions_2', 'predictions_3']),
        (2, ['predictions']),
    ],
)
def test_examples_of_the_guide_train_a_step(example, ends, tmp_path):
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    text = EXAMPLES[example]
    if 'read_base\n' not in text:
        text = f'from mmengine.config import read_base\n\n{text}'
    (tmp_path / 'configs' / 'mine.py').write_text(text)
    config = load_config(tmp_path / 'configs' / 'mine.py')
    torch.manual_seed(0)
    model = build(config).train()
    data = dict(
        inputs=list(torch.randint(256, (2, 3, 64, 64), dtype=torch.uint8)),
        data_samples=model.task.dummy_samples(2, (64, 64)),
    )
    losses = model.train_step(data, build_optim_wrapper(model, config.optim_wrapper))
    found = [key.removeprefix('student.loss_from_teacher.') for key in losses if '_from_' in key]
    assert [key for key in found if not key.endswith('.discriminator')] == ends
    assert len(EXAMPLES) == 3


def test_named_configs_exist():
    places = re.findall(r'configs/comparisons/([\w{},]+\.py)', GUIDE)
    assert len(places) >= 3
    for place in places:
        first, _, rest = place.partition('{')
        choices, _, last = rest.partition('}')
        for choice in choices.split(','):
            assert (ROOT / 'configs' / 'comparisons' / f'{first}{choice}{last}').is_file()


@pytest.mark.usefixtures('uninitialized')
@pytest.mark.parametrize('task', ['pcam', 'lgg'])
def test_table_matches_weights_and_parameter_counts(task):
    title = dict(pcam='### Classification', lgg='### Segmentation')[task]
    table = GUIDE.partition(title)[2].partition('###')[0].partition('The numbers are')[0]
    rows = [re.split(r' \| ', line.strip('| ')) for line in table.splitlines() if line[:2] == '| ']
    named = {
        row[0].lower().replace(' with discriminator f', '_adversarial'): row for row in rows[2:]
    }
    assert len(named) == dict(pcam=8, lgg=9)[task]
    for method, row in named.items():
        model = build(load_config(ROOT / f'configs/comparisons/{method}_r50_r18_{task}.py'))
        extra = sum(p.numel() for p in model.transfer_modules.parameters())
        if method != 'simkd':  # SimKD's projector is part of the student
            assert row[4] == f'{extra:,}', method
        weights = [f'{float(number):g}' for number in re.findall(r'[\d.]+', row[6])]
        if method == 'skd_adversarial':
            weights.append('10')  # listed in the row above
        own = [f'{t.weight:g}' for t in model.transfers if t.weight != 1 or method == 'kd']
        assert set(own) <= set(weights), method


@pytest.mark.usefixtures('uninitialized')
def test_table_of_recent_methods_matches_weights_and_parameter_counts():
    table = GUIDE.partition('### Recent methods')[2].partition('## ')[0]
    rows = [re.split(r' \| ', line.strip('| ')) for line in table.splitlines() if line[:2] == '| ']
    assert [row[0] for row in rows[2:]] == [
        *('DKD', 'DIST', 'DIST', 'LSKD'),
        *('MGD', 'MGD', 'PKD', 'PKD'),
    ]
    for method, task, _, formula, _, parameters, _, weights, _ in rows[2:]:
        dataset = 'ham10000_cls' if 'classification' in task else 'lgg'
        path = ROOT / f'configs/comparisons/{method.lower()}_r50_r18_{dataset}.py'
        model = build(load_config(path))
        extra = sum(p.numel() for p in model.transfer_modules.parameters())
        assert f'{extra:,}' == parameters
        assert sorted(t.weight for t in model.transfers) == sorted(map(float, weights.split('; ')))
        if method == 'MGD':
            ratio = next(t.loss.ratio for t in model.transfer_terms if hasattr(t.loss, 'ratio'))
            assert f'{100 * ratio:g} % of the' in formula
    for path in re.findall(r'`(?:suites/)?(recent_\w+\.py)`', table):
        assert (ROOT / 'suites' / path).is_file()
