from types import SimpleNamespace

import pytest
from mmengine.hooks import CheckpointHook

from mmkdml.engine.hooks.best_scores import best_so_far


def runner(key):
    hook = CheckpointHook(save_best=key, rule='greater')
    hook.key_indicators = [key]
    return SimpleNamespace(hooks=[hook], train_loop=None)


@pytest.mark.parametrize('key', ['accuracy/top1', 'mIoU'])
def test_network_whose_metrics_name_no_member(key):
    best = best_so_far(runner(key), {key: 30.0}, 2, {1: {f'model/{key}': 40.0}})
    assert best.texts == {'model': '40.00 (1)'}
    assert not best.new
    assert best_so_far(runner(key), {key: 50.0}, 2, {1: {key: 40.0}}).new == ['model']


def test_each_member_has_its_best_epoch():
    earlier = {1: {'teacher/f/IoU': 4.0, 'ensemble/f/IoU': 7.0}}
    now = {'teacher/f/IoU': 5.0, 'ensemble/f/IoU': 6.0}
    best = best_so_far(runner('ensemble/f/IoU'), now, 2, earlier)
    assert best.texts == {'teacher': '5.00 (2)', 'ensemble': '7.00 (1)'}
    assert best.new == ['teacher']
