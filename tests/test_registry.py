import json
import subprocess
import sys

import mmengine.registry
import pytest
from mmengine.registry import Registry

from mmkdml import registry

# A class of each registry and its module.
FOUND = {
    'MODELS': ('FeatureMSELoss', 'mmkdml.models.losses.transfer_losses'),
    'DATASETS': ('LGGDataset', 'mmkdml.datasets.lgg'),
    'TRANSFORMS': ('AlbumentationsTransform', 'mmkdml.datasets.transforms'),
    'METRICS': ('ForegroundIoU', 'mmkdml.evaluation.foreground'),
    'HOOKS': ('MemberTableHook', 'mmkdml.engine.hooks.member_table'),
    'OPTIM_WRAPPERS': ('CPUAmpOptimWrapper', 'mmkdml.engine.optim_wrapper'),
    'OPTIM_WRAPPER_CONSTRUCTORS': (
        'DiscriminatorOptimWrapperConstructor',
        'mmkdml.engine.optimizers',
    ),
    'PARAM_SCHEDULERS': ('LinearWeight', 'mmkdml.models.weighting.schedules'),
}

NAMES = tuple(FOUND)


def test_all_registries_are_known():
    assert {key for key, one in vars(registry).items() if isinstance(one, Registry)} == set(NAMES)


@pytest.mark.parametrize('name', NAMES)
def test_registries_are_children_of_mmengine(name):
    ours, root = getattr(registry, name), getattr(mmengine.registry, name)
    assert ours.parent is root
    assert ours.scope == 'mmkdml'
    assert root.children['mmkdml'] is ours


@pytest.mark.parametrize(
    ('name', 'basic'),
    [
        ('MODELS', 'ImgDataPreprocessor'),
        ('DATASETS', 'ConcatDataset'),
        ('METRICS', 'DumpResults'),
        ('HOOKS', 'CheckpointHook'),
        ('OPTIM_WRAPPERS', 'OptimWrapper'),
        ('OPTIM_WRAPPER_CONSTRUCTORS', 'DefaultOptimWrapperConstructor'),
        ('PARAM_SCHEDULERS', 'LinearParamScheduler'),
    ],
)
def test_mmengine_classes_are_found(name, basic):
    ours, root = getattr(registry, name), getattr(mmengine.registry, name)
    assert ours.get(basic) is root.get(basic)
    assert ours.get(basic).__name__ == basic


@pytest.mark.slow
def test_strings_are_found_without_imports():
    """And mmdet is imported with the first use of a class that needs it."""
    script = """
import json, sys
import mmkdml.registry
import mmengine.registry
found = {}
mmkdml.registry.METRICS.get('ForegroundIoU')
import mmkdml.datasets
assert 'SplitBoxDataset' in dir(mmkdml.datasets)
assert 'mmdet' not in sys.modules  # slow to import
cells = mmkdml.registry.DATASETS.get('mmkdml.BCCDDataset')
assert cells.METAINFO['classes'] == ('RBC', 'WBC', 'Platelets')
assert 'mmdet' in sys.modules
assert mmengine.registry.METRICS.get('mmkdml.BoxAP').__module__ == 'mmkdml.evaluation.boxes.ap'
for name, key in json.loads(sys.argv[1]).items():
    kind = getattr(mmkdml.registry, name).get(key)
    assert getattr(mmengine.registry, name).get('mmkdml.' + key) is kind, name
    found[name] = [key, kind.__module__]
print(json.dumps(found))
"""
    wanted = json.dumps({name: key for name, (key, _) in FOUND.items()})
    done = subprocess.run(
        [sys.executable, '-c', script, wanted], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        name: list(found) for name, found in FOUND.items()
    }
