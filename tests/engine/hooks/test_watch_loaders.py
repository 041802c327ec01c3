import pytest
from torch.utils.data import DataLoader

from mmkdml.engine import WatchLoadersHook, workers


@pytest.mark.parametrize('part', ['train', 'val', 'test'])
def test_loader_of_each_loop_is_watched(part):
    class Runner:
        pass

    for one in ('train', 'val', 'test'):
        setattr(Runner, f'{one}_dataloader', DataLoader([1], num_workers=1))
    getattr(WatchLoadersHook(), f'before_{part}')(Runner)
    found = {
        one: type(getattr(Runner, f'{one}_dataloader')) is workers._WatchedLoader
        for one in ('train', 'val', 'test')
    }
    assert found == {one: one == part for one in found}
