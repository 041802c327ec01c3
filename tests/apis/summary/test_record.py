import json
import sys
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import nn

from mmkdml.apis.summary import page
from mmkdml.apis.summary.record import FAILED, FINISHED, STOPPED, TEST, TRAIN, RecordHook, recorded
from mmkdml.datasets.splits import SplitRow, write_splits


@pytest.fixture
def runner(tmp_path, monkeypatch):
    """Runner of a network of another library, with a log in its folder."""
    rows = [SplitRow(f'{i}', f'{i}.png', f'{i // 2}', i % 2) for i in range(6)]
    write_splits(tmp_path / 'splits', dict(train=rows), {})
    dataset = dict(type='OwnDataset', ann_file=str(tmp_path / 'splits' / 'train.csv'))
    cfg = Config(dict(train_dataloader=dict(dataset=dataset), optim_wrapper=dict(type='x')))
    monkeypatch.setattr(sys, 'argv', ['tools/train.py', 'c.py', '--cfg-options', 'api_key=S3CRET'])
    warnings = []
    return SimpleNamespace(
        work_dir=str(tmp_path / 'run'), log_dir=str(tmp_path / 'run' / '20260101'), cfg=cfg,
        model=nn.Linear(3, 2), iter=0, epoch=0, max_epochs=3, max_iters=9, seed=7,
        _train_loop=None, _test_loop=None, logger=SimpleNamespace(warning=warnings.append),
        warnings=warnings,
    )  # fmt: skip


def content(runner, kind):
    with open(f'{runner.log_dir}/call_{kind}.json') as file:
        return json.load(file)


def test_start_is_recorded(runner):
    RecordHook().before_train(runner)
    found = content(runner, TRAIN)
    assert (found['status'], found['start_iter'], found['processes']) == ('running', 0, 1)
    assert found['command'] == 'python tools/train.py c.py --cfg-options api_key=***'
    assert found['data']['train']['images'] == 6
    assert found['data']['train']['labels'] == {'0': 3, '1': 3}
    assert found['members'] == [dict(name='model', network='Linear', parameters=8, trained=True)]
    assert (found['transfers'], found['environment']['seed']) == ([], 7)
    assert {'python', 'torch', 'mmkdml'} <= set(found['environment']['versions'])


def test_images_of_several_classes_are_counted_by_name(runner, tmp_path):
    labels = (('cat', 'dog'), ('dog',), ())
    rows = [
        SplitRow(f'{i}', f'{i}.png', f'{i}', int(bool(one)), labels=one)
        for i, one in enumerate(labels)
    ]
    write_splits(tmp_path / 'named', dict(train=rows), {})
    runner.cfg.train_dataloader.dataset.ann_file = str(tmp_path / 'named' / 'train.csv')
    RecordHook().before_train(runner)
    train = content(runner, TRAIN)['data']['train']
    assert train['names'] == dict(cat=1, dog=2)
    assert 'labels' not in train


@pytest.mark.parametrize(
    ('error', 'status', 'text'),
    [
        (None, FINISHED, ''),
        (SystemExit(143), STOPPED, ''),
        (KeyboardInterrupt(), STOPPED, ''),
        (ValueError('a loss is nan, token=S3CRET'), FAILED, 'ValueError: a loss is nan, token=***'),
    ],
)
def test_end_is_recorded_with_a_summary(runner, tmp_path, error, status, text):
    RecordHook().before_train(runner)

    def run():
        with recorded(runner, TRAIN):
            if error is not None:
                raise error

    if error is None:
        run()
    else:
        with pytest.raises(type(error)) as raised:
            run()
        assert raised.value is error
    found = content(runner, TRAIN)
    assert (found['status'], found['error']) == (status, text)
    assert found['memory_mb']['main'] > 10
    assert 'token=S3CRET' not in (tmp_path / 'run' / 'summary.html').read_text()


def test_call_that_did_not_start_writes_nothing(runner, tmp_path):
    with pytest.raises(OSError, match='no data'), recorded(runner, TRAIN):
        raise OSError('no data')
    RecordHook().before_test(runner)
    with recorded(runner, TRAIN):
        pass
    assert content(runner, TEST)['status'] == 'running'
    assert not (tmp_path / 'run' / 'summary.html').exists()


def test_problems_of_the_summary_do_not_replace_the_error(runner, monkeypatch):
    def fail(run):
        raise RuntimeError('disk full')

    RecordHook().before_train(runner)
    monkeypatch.setattr(page, 'write_summary', fail)
    with pytest.raises(ZeroDivisionError), recorded(runner, TRAIN):
        raise ZeroDivisionError
    assert 'disk full' in runner.warnings[0]
