import signal

import pytest
import torch
from mmengine.hooks import Hook

from mmkdml.engine import INTERRUPTED, ChannelsLastHook
from mmkdml.models.checkpoints import load_checkpoint_file

LAYOUT = dict(memory_format=torch.channels_last)


class Watch(Hook):
    """Records the memory format of tensors during a run."""

    def __init__(self):
        self.seen = []

    def after_train_iter(self, runner, *_, **__):
        weight = runner.model.layer.weight
        (group, *_) = runner.optim_wrapper.optimizer.param_groups
        (part, *_) = runner.optim_wrapper.optimizer.parts
        tensors = (weight, weight.grad, *part.state[weight].values())
        assert any(weight is one for one in group['params'])
        self.seen += [
            one.is_contiguous(**LAYOUT) for one in tensors if one is not None and one.ndim == 4
        ]

    def before_val_iter(self, runner, *_, **__):
        self.seen.append(runner.model.layer.weight.is_contiguous(**LAYOUT))


@pytest.fixture(scope='module')
def run(training, tmp_path_factory):
    """Train with convolutions; return (last checkpoint, recorded formats, folder)."""

    # A large eps, because Adam amplifies the noise of gradients near zero.
    def start(hooked, *args, folder=None, fused=True, **settings):
        folder = folder or tmp_path_factory.mktemp('run')
        watch = Watch()
        hooks = [*([ChannelsLastHook()] if hooked else []), watch]
        stops = bool(args and args[0])
        try:
            training.start(
                folder,
                *args,
                net=training.ConvolutionalNet,
                hooks=hooks,
                adam=dict(eps=1.0, fused=fused),
                **settings,
            )
        except SystemExit:
            assert stops
        return (
            load_checkpoint_file(folder / (INTERRUPTED if stops else 'epoch_3.pth')),
            watch.seen,
            folder,
        )

    return start


def tensors(value):
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from tensors(one)


def all_tensors(checkpoint):
    keys = ('state_dict', 'optimizer', 'gradients', 'ema_state_dict')
    return [one for key in keys for one in tensors(checkpoint.get(key, []))]


def same(ours, theirs, tolerance=0.0):
    pairs = list(zip(all_tensors(ours), all_tensors(theirs), strict=True))
    return len(pairs) > 20 and all(
        torch.allclose(one, other, rtol=tolerance, atol=tolerance) for one, other in pairs
    )


@pytest.mark.parametrize('fused', [None, True])
def test_values_and_checkpoint_format_do_not_change(run, fused):
    ours, seen, _ = run(True, fused=fused, ema=True)
    theirs, others, _ = run(False, fused=None, ema=True)
    assert all(seen)
    assert not any(others)
    assert len(seen) == len(others) > 40
    assert same(ours, theirs, 1e-4)
    assert all(one.is_contiguous() for one in all_tensors(ours))
    assert ours.keys() == theirs.keys()
    assert list(ours['state_dict']) == list(theirs['state_dict'])
    assert ours['state_dict']._metadata == theirs['state_dict']._metadata


@pytest.mark.parametrize('accumulate', [1, 3])
def test_resumed_run_ends_identically(run, accumulate):
    settings = dict(ema=True, accumulate=accumulate)
    uninterrupted, *_ = run(True, **settings)
    left, _, folder = run(True, ('train', 7, signal.SIGTERM), **settings)
    assert ('gradients' in left) is (accumulate > 1)
    assert all(one.is_contiguous() for one in all_tensors(left))
    resumed, seen, _ = run(True, None, folder / INTERRUPTED, True, folder=folder, **settings)
    assert all(seen)
    assert same(resumed, uninterrupted)


@pytest.mark.parametrize('before', [False, True])
def test_run_can_be_resumed_in_the_other_format(run, before):
    settings = dict(accumulate=2)
    uninterrupted, *_ = run(False, **settings)
    _, _, folder = run(before, ('train', 7, signal.SIGTERM), **settings)
    resumed, seen, _ = run(not before, None, folder / INTERRUPTED, True, folder=folder, **settings)
    assert set(seen) == {not before}
    assert same(resumed, uninterrupted, 1e-4)
