import json
import math
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import torch

from mmkdml.apis import load, load_config, load_results
from mmkdml.evaluation import ForegroundIoU
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import DATASETS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'


def test_run_is_tested_with_its_own_config(trained, tool, short, tmp_path, capsys):
    folder, _ = trained
    run = tmp_path / 'run'
    shutil.copytree(folder, run)
    (best,) = run.glob('best_*.pth')
    written = {path: path.read_bytes() for path in run.rglob('*') if path.is_file()}
    tool('test', run, '--out', tmp_path / 'run.json')
    printed, errors = capsys.readouterr()
    assert errors == ''
    lines = printed.splitlines()
    assert len(lines) <= 16
    names = [line.split()[0] for line in lines if line]
    start = names.index('member') + 2  # below the heading and its line
    assert names[start : start + 4] == ['teacher', 'student_1', 'student_2', 'ensemble']
    assert best.name in printed
    assert 'results.csv' in printed
    tool(
        'test',
        CONFIG,
        '--work-dir',
        tmp_path / 'elsewhere',
        '--out',
        tmp_path / 'best.json',
        best,
        options=short,
    )
    metrics = json.loads((tmp_path / 'run.json').read_text())
    assert metrics == json.loads((tmp_path / 'best.json').read_text())
    for member in ('teacher', 'student_1', 'student_2', 'ensemble'):
        for metric in ('IoU', 'F1', 'case_IoU', 'case_F1'):
            assert 0 <= metrics[f'{member}/foreground/{metric}'] <= 100
    for name in ('run', 'elsewhere'):
        assert (tmp_path / name / 'panels' / 'panels.png').is_file()

    updated = {'results.csv', 'results.json', 'summary.html'}
    assert updated <= {path.name for path in written}
    for path, content in written.items():
        assert path.name in updated or path.read_bytes() == content, path
    assert 'Test, best checkpoint' in (run / 'summary.html').read_text()
    table = load_results(run).table
    assert table[table.split == 'val'].groupby('epoch').member.nunique().to_dict() == {1: 4, 2: 4}
    tested = table[table.split == 'test']
    assert {*tested.kind, *tested.checkpoint, *tested.cases, *tested.changes} == {
        'best', best.name, 4, '',
    }  # fmt: skip
    names = tested.member + '/' + tested.measure
    assert dict(zip(names, tested.value, strict=True)) == pytest.approx(
        {key: math.nan if value is None else value for key, value in metrics.items()}, nan_ok=True
    )
    elsewhere = load_results(tmp_path / 'elsewhere')
    assert elsewhere.run['id'] is None
    assert [one['run'] for one in elsewhere.evaluations] == [load_results(run).run['id']]


def test_undefined_metrics_are_null(checkpoint, tool, short, tmp_path, monkeypatch):
    def refuse(word):
        raise ValueError(word)

    undefined = {'IoU': math.nan, 'F1': math.inf}
    monkeypatch.setattr(ForegroundIoU, 'compute_metrics', lambda *_: undefined)
    out = tmp_path / 'metrics.json'
    tool('test', CONFIG, checkpoint, '--work-dir', tmp_path, '--out', out, options=short)
    files = [path for path in tmp_path.rglob('*.json') if path.name != 'call_test.json']
    assert len(files) == 3
    for path in files:
        content = json.loads(path.read_text(), parse_constant=refuse)
        if path.name == 'results.json':
            continue
        assert content['teacher/foreground/IoU'] is content['teacher/foreground/F1'] is None


@pytest.mark.slow
def test_augmented_test_is_recorded_apart_from_the_plain_one(checkpoint, tool, short, tmp_path):
    """Its masks are those of the predictor, which loads images without the data set."""

    def test(*options):
        tool('test', CONFIG, checkpoint, '--work-dir', tmp_path, *options, options=short)
        return load_results(tmp_path).table.query("measure == 'foreground/IoU'")

    plain = test()
    panel = tmp_path / 'panels' / 'panels.png'
    before = panel.read_bytes()
    both = test('--tta')
    assert both.changes.tolist() == [
        *[''] * 4,
        *["tta: False -> 'image, horizontal flip, vertical flip'"] * 4,
    ]
    assert both.value.tolist()[:4] == plain.value.tolist()
    assert panel.read_bytes() == before
    assert (tmp_path / 'tta' / 'panels' / 'panels.png').read_bytes() != before
    summary = (tmp_path / 'summary.html').read_text()
    assert summary.count('with test-time augmentation') >= 1

    config = load_config(CONFIG, dict(one.split('=') for one in short if one.startswith('test_')))
    counts = defaultdict(Counter)
    predictor = load(config, checkpoint, 'cpu')
    for item in map(DATASETS.build(config.test_dataloader.dataset).__getitem__, range(4)):
        truth = item['data_samples'].gt_sem_seg.data[0].numpy() == 1
        (views,) = predictor.predict(item['data_samples'].img_path, augment=True)
        for name, answer in views.answers.items():
            predicted = answer.label == 1
            counts[name] += Counter(
                both=int((truth & predicted).sum()), any=int((truth | predicted).sum())
            )
    # On some processors, a batch of several images is rounded differently: a pixel in a thousand.
    expected = {name: 100 * one['both'] / one['any'] for name, one in counts.items()}
    found = dict(zip(both.member[4:], both.value[4:], strict=True))
    assert found == pytest.approx(expected, rel=0.005)
    assert expected != pytest.approx(dict(zip(plain.member, plain.value, strict=True)), rel=0.02)
    assert min(found.values()) > 0


def test_truncated_checkpoint_is_one_line(trained, tool, short, tmp_path):
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes((trained[0] / 'epoch_1.pth').read_bytes()[:5000])
    with pytest.raises(SystemExit) as stopped:
        tool('test', CONFIG, truncated, '--work-dir', tmp_path, options=short)
    assert str(stopped.value).startswith(f'test.py: error: {truncated} is not a valid checkpoint')


@pytest.mark.parametrize('nested', [False, True])
def test_code_in_checkpoint_is_not_executed(
    trained, tool, short, tmp_path, monkeypatch, nested, payload
):
    made, checkpoint = tmp_path / 'made', tmp_path / 'malicious.pth'
    content = load_checkpoint_file(trained[0] / 'epoch_1.pth')
    content['meta' if nested else 'state_dict'] = payload(made)
    torch.save(content, checkpoint)
    for name, args in (('test', [checkpoint]), ('train', ['--resume', checkpoint])):
        with pytest.raises(SystemExit, match='is not a valid checkpoint'):
            tool(name, CONFIG, *args, '--work-dir', tmp_path, options=short)
    assert not made.exists()
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    torch.load(checkpoint, weights_only=False)['meta' if nested else 'state_dict'].close()
    assert made.exists()  # unpickling does execute it


def test_checkpoint_of_another_network_is_one_line(trained, tool, short, tmp_path):
    checkpoint = tmp_path / 'other.pth'
    weights = load_checkpoint_file(trained[0] / 'epoch_1.pth')['state_dict']
    torch.save({key: value for key, value in weights.items() if 'student_2' not in key}, checkpoint)
    with pytest.raises(SystemExit) as stopped:
        tool('test', CONFIG, checkpoint, '--work-dir', tmp_path, options=short)
    assert f'{checkpoint} does not fit the model of this config' in str(stopped.value)
    assert 'missing: members.student_2.backbone.conv1.weight;' in str(stopped.value)


def test_missing_checkpoint_is_one_line(tool, short, tmp_path):
    with pytest.raises(SystemExit, match='test.py: error: There is no checkpoint at nowhere'):
        tool('test', CONFIG, 'nowhere', '--work-dir', tmp_path, options=short)
