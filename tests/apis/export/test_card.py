import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest

from mmkdml.apis import machine
from mmkdml.apis.export.card import make_card, write_card
from mmkdml.apis.export.checks import Agreement
from mmkdml.apis.export.formats import Exported


@pytest.fixture(scope='module')
def source(random_source, slices):
    files = dict(train=slices[1], val='nowhere.csv', test=slices[1].with_name('test.csv'))
    options = {f'{part}_dataloader.dataset.ann_file': str(file) for part, file in files.items()}
    meta = dict(classes=('background', 'tumour | *core*'))
    return random_source('kdml_v3_demo', 'ensemble', options, meta)


SCORES = pd.DataFrame(
    dict(
        member=['onnx', 'int8'], measure='IoU', value=[61.234, 60.0], low=[50, np.nan],
        high=[70, np.nan], groups=5, difference=[np.nan, -1.234], difference_low=[np.nan, -2],
        difference_high=[np.nan, 0.5],
    )
)  # fmt: skip


def test_content_of_the_card(source, tmp_path, monkeypatch):
    (tmp_path / 'x.onnx').write_bytes(b'graph')
    exported = Exported({}, Agreement(images=50, max_difference=3e-7, other_labels=0.0))
    times = {'onnx': 1.5, 'int8': 3.0, 'teacher in PyTorch': 6.0}
    before = SCORES.copy()
    monkeypatch.setattr(machine, 'processor_name', lambda: 'Chip<R> 9 | 2')
    card = make_card(source, 'onnx', tmp_path, exported, times, SCORES, licence='CC BY')
    pd.testing.assert_frame_equal(SCORES, before)
    write_card(card, tmp_path)
    assert json.loads((tmp_path / 'kdml_v3_demo-ensemble.json').read_text()) == json.loads(
        json.dumps(card, default=float)
    )
    assert card['ensemble'] == 'union'
    assert card['classes'] == ['background', 'tumour | *core*']
    assert card['agreement'] == dict(images=50, max_difference=3e-7, other_labels=0.0)
    assert card['speed_ups'] == dict(onnx=4, int8=2)
    assert card['scores'][1]['low'] is None
    assert card['files'] == [
        dict(name='x.onnx', bytes=5, sha256=hashlib.sha256(b'graph').hexdigest())
    ]
    assert card['data']['train'] == dict(
        dataset='LGGDataset',
        split_file=source.config.train_dataloader.dataset.ann_file,
        images=16,
        groups=4,
    )
    assert card['data']['val']['images'] is None
    assert [one['name'] for one in card['networks']] == ['student_1', 'student_2']
    for one in card['networks']:
        member = source.members[one['name']]
        assert one['parameters'] == sum(p.numel() for p in member.parameters())
        assert one['flops'] > 0
    text = (tmp_path / 'kdml_v3_demo-ensemble.md').read_text()
    for line in (
        '| onnx | IoU | 61.23 | 50.00 to 70.00 |  |',
        '| int8 | IoU | 60.00 | ? to ? | -1.23 (-2.00 to +0.50) |',
        'combined by the ensemble rule `union`',
        'On 50 images, scores differ from PyTorch',
        'at most 3e-07, and 0 % of',
        '## Licence\n\nCC BY\n',
        r'Classes: background, tumour \| \*core\*. Input: images (N, 3, H, W)',
        'H and W: multiples of 32, at least 64. Outputs: scores (maxima of the students',
        r'| on Chip\<R\> 9 \| 2, 1 thread | ms per image | speed-up over the teacher |',
        '| onnx | 1.50 | 4.00 |\n| int8 | 3.00 | 2.00 |\n| teacher in PyTorch | 6.00 |  |',
        '\n\nWarning: int8 is 0.50 times as fast as the float file (onnx).',
        '| val | nowhere.csv | ? | ? |',
        'Research on images like those of its training data.',
    ):
        assert line in text


def test_card_without_scores_and_latencies(source, tmp_path):
    exported = Exported({}, Agreement(3, 0.0, 0.0), ('mmkdml.StemResNet', 'mmkdml.UNetHead'))
    card = make_card(source, 'checkpoint', tmp_path, exported, {})
    write_card(card, tmp_path)
    text = (tmp_path / 'kdml_v3_demo-ensemble.md').read_text()
    assert (card['scores'], card['speed_ups']) == ([], {})
    assert 'Not measured.' in text
    assert 'Input: see the test pipeline of the config.' in text
    assert 'requires mmkdml.StemResNet and mmkdml.UNetHead' in text


def test_markup_in_names_is_escaped(source, tmp_path):
    hostile = '<img src=x onerror=alert(1)> | **b** [a](javascript:b) `c`\n# d'
    exported = Exported({}, Agreement(3, 0.0, 0.0), (hostile,))
    scores = pd.DataFrame([dict(member=hostile, measure=hostile, value=1.0, low=0.0, high=2.0)])
    card = make_card(source, 'onnx', tmp_path, exported, {hostile: 1.0}, scores)
    card['networks'] = [dict(card['networks'][0], name=hostile, network=hostile)]
    card['classes'] = [hostile]
    card['data']['train']['split_file'] = hostile
    card['checkpoint']['file'] = card['machine'] = hostile
    write_card(card, tmp_path)
    text = (tmp_path / 'kdml_v3_demo-ensemble.md').read_text()
    assert text.count('onerror') == 11
    assert not re.search(r'(?<!\\)(<img|\*\*b|\[a|`c)|^# d|alert\(1\)>', text, re.MULTILINE)


def test_nan_raises_instead_of_invalid_json(source, tmp_path):
    exported = Exported({}, Agreement(3, float('nan'), 0.0))
    card = make_card(source, 'onnx', tmp_path, exported, {})
    with pytest.raises(ValueError, match='JSON'):
        write_card(card, tmp_path)
