"""Train, test and compare the configs of this project: python check.py [--compare] [CONFIG ...]

With ``--compare`` only the first config is trained and tested with the commands of mmkdml.
"""

import hashlib
import multiprocessing
import os
import pickle
import sys
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner, set_random_seed

import mmkdml.models  # noqa: F401  # once, for all processes
from mmkdml.apis.run.config import RunConfig
from mmkdml.commands import main as command

MEMBER = 'student_1'


class InitialWeights(Hook):
    """Save the weights that the student begins with, or begin with saved ones.

    Resets the random numbers, because a classroom draws more of them to build its members.
    """

    priority = 'LOWEST'

    def __init__(self, path, save):
        self.path, self.save = path, save

    def before_train(self, runner):
        if self.save:
            torch.save(runner.model.members[MEMBER].state_dict(), self.path)
        else:
            runner.model.load_state_dict(torch.load(self.path))
        set_random_seed(0)


def without_transfers(config):
    """Give supervised losses weight 1 and all transfers weight 0."""
    config.model.weights = dict(alpha=(1.0, 1.0), beta=(0.0, 0.0), gamma=(0.0, 0.0))


def plain(config):
    """Make the config that of a plain training of the student."""
    model = config.model
    config.model = dict(model.students[0], data_preprocessor=model.data_preprocessor)
    config.val_evaluator = config.test_evaluator = config.val_evaluator.metric
    checkpoint = config.default_hooks.checkpoint
    checkpoint.save_best = checkpoint.save_best.removeprefix('ensemble/')
    for hook in config.get('custom_hooks', ()):
        if 'monitor' in hook:
            hook.monitor = hook.monitor.removeprefix(f'{MEMBER}/')
    if members := config.optim_wrapper.pop('members', None):
        del config.optim_wrapper['constructor']
        config.optim_wrapper.update(members[MEMBER])


def train(path, folder, change):
    """Train a changed config with mmengine's Runner, as the frameworks' own tools do."""
    config = RunConfig(Config.fromfile(path))  # formats its text only once
    change(config)
    config.work_dir, config.log_level = str(folder / change.__name__), 'ERROR'
    runner = Runner.from_cfg(config)
    initial = folder / 'initial_weights.pth'
    runner.register_hook(InitialWeights(initial, save=change is without_transfers))
    runner.train()


def last_weights(folder):
    """Return the newest checkpoint's name, and the weights of the student, averaged ones if any."""
    path = Path(folder, Path(folder, 'last_checkpoint').read_text())
    weights = torch.load(path, map_location='cpu', weights_only=False)['state_dict']
    prefix = f'members.{MEMBER}.'
    member = {key.removeprefix(prefix): weights[key] for key in weights if key.startswith(prefix)}
    return path.name, member or weights


def in_process(function, *arguments):
    """Run a function in a forked process, so that trainings do not share state."""
    process = multiprocessing.get_context('fork').Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(f'{function.__name__}{arguments} failed with code {process.exitcode}')


def use(path):
    """Train and test a config with the commands."""
    run = Path('work_dirs', path.stem, 'classroom')
    in_process(command, ['train', str(path), '--work-dir', str(run), '--quiet'])
    in_process(command, ['test', str(run)])
    in_process(command, ['test', str(run), '--tta'])
    results = (run / 'results.csv').read_text()
    assert all(name in results for name in ('teacher', 'student_2', 'ensemble')), results


def compare(path):
    """Compare a student without transfers with one in a plain training."""
    folder = Path('work_dirs', path.stem)
    folder.mkdir(parents=True, exist_ok=True)
    for change in (without_transfers, plain):
        in_process(train, path, folder, change)
    name, found = last_weights(folder / 'without_transfers')
    expected_name, expected = last_weights(folder / 'plain')
    assert (name, found.keys()) == (expected_name, expected.keys()), (name, expected_name)
    different = [key for key in expected if not torch.equal(found[key], expected[key])]
    assert not different, f'{path}: other weights than a plain training: {different}'
    digest = hashlib.sha256(pickle.dumps([one.tolist() for one in found.values()])).hexdigest()[:8]
    print(f'{path}: {name} {digest} equals that of a plain training', flush=True)


def main():
    os.chdir(Path(__file__).parent)
    from shapes import write_shapes

    only_compare = sys.argv[1:2] == ['--compare']
    names = sys.argv[1 + only_compare :]
    for part, images in (('train', 12), ('val', 6), ('test', 4)):
        write_shapes(f'data/{part}', images, seed=images)
    for number, path in enumerate(map(Path, names or sorted(Path('configs').glob('*.py')))):
        if not only_compare or number == 0:
            use(path)
        compare(path)


if __name__ == '__main__':
    main()
