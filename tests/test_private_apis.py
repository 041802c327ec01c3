"""Private APIs of other libraries that mmkdml uses: each exists, and no other one is used.

The error of a missing one names the code that uses it.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# By owner: a class (its methods, and the attributes that its instances set) or a module.
PRIVATE_APIS = {
    'atexit': {'_run_exitfuncs': 'apis.cli: ends a process of gloo after its exit handlers'},
    'mmdet.evaluation.metrics.coco_metric.CocoMetric': {
        '_coco_api': 'evaluation.boxes.ap: discards the truth of an earlier evaluation'
    },
    'mmdet.models.dense_heads.YOLOXHead': {'_bbox_decode': 'models.tasks: boxes of YOLOX'},
    'mmdet.models.dense_heads.base_dense_head.BaseDenseHead': {
        '_bbox_post_process': 'apis.export: suppression of the original network, to compare'
    },
    'mmdet.models.BatchSyncRandomResize': {'_input_size': 'engine.resume: size of the next images'},
    'mmengine.config.Config': {
        '_cfg_dict': 'apis.run.config: copies all attributes of a config',
        '_file2dict': 'packages: text configs that inherit pure-Python configs',
        '_get_cfg_path': 'packages: text configs that inherit pure-Python configs',
        '_is_lazy_import': 'packages: text configs that inherit pure-Python configs',
    },
    'mmengine.dataset.BaseDataset': {
        '_metainfo': 'datasets.boxes: classes of the file with the boxes'
    },
    'mmengine.model.ImgDataPreprocessor': {
        '_channel_conversion': 'models.distillers.preprocessing: compares normalizations',
        '_enable_normalize': 'models.distillers.preprocessing: compares normalizations',
    },
    'mmengine.optim': {'_ParamScheduler': 'engine.resume.schedules: any kind of scheduler'},
    'mmengine.runner.EpochBasedTrainLoop': {
        '_decide_current_val_interval': 'engine.resume: loops that resume within an epoch',
        '_epoch': 'engine.resume: loops that resume within an epoch',
        '_iter': 'engine.resume: loops that resume within an epoch',
        '_max_epochs': 'engine.resume: loops that resume within an epoch',
    },
    'mmengine.runner.IterBasedTrainLoop': {
        '_iter': 'engine.resume: loops that resume exactly',
        '_max_iters': 'engine.resume: loops that resume exactly',
    },
    'mmengine.runner.Runner': {
        '_has_loaded': 'apis.runs, engine.resume: weights that are already loaded',
        '_load_from': 'engine.hooks: name of the checkpoint in an error',
        '_randomness_cfg': 'engine.resume: seed of a resumed run',
        '_resume': 'engine: whether a run is resumed',
        '_test_loop': 'apis.summary: data set of a test, without building the loop',
        '_train_loop': 'engine.resume: replaces the loop before it is built',
    },
    'mmengine.runner.checkpoint': {
        'get_torch_safe_globals': 'checkpoint_io: replaced by a shorter list of safe globals'
    },
    'mmseg.models.decode_heads.decode_head.BaseDecodeHead': {
        '_transform_inputs': 'models.heads: input maps of the U-Net head'
    },
    'mmseg.models.segmentors.EncoderDecoder': {
        '_auxiliary_head_forward_train': 'models.tasks: losses from one forward pass',
        '_decode_head_forward_train': 'models.tasks: recognizes overridden losses',
    },
    'multiprocessing.queues.Queue': {
        '_on_queue_feeder_error': 'engine.workers: reports a batch that cannot be sent'
    },
    'numpy._core.multiarray': {'_reconstruct': 'checkpoint_io: arrays in checkpoints'},
    'mmengine.visualization.Visualizer': {
        '_initialize_fig': 'compat: creates the figure when it is used'
    },
    'torch': {'_inductor': 'engine.hooks: weights as constants of compiled graphs'},
    'torch.autograd': {'_profiler_enabled': 'profiling: named ranges'},
    'torch.distributed': {'_register_comm_hook': 'engine.distributed: keeps the hooks of DDP'},
    'torch.nn.Module': {
        '_apply': 'models.distillers: moves shared frozen members',
        '_buffers': 'models.inference_copies: finds changed values',
        '_compiled_call_impl': 'models.inference_copies, engine.hooks: compiled networks',
        '_forward_hooks': 'models: registers a hook once, keeps networks with hooks',
        '_forward_pre_hooks': 'models.inference_copies: keeps networks with hooks',
        '_modules': 'models.inference_copies: finds changed modules',
        '_parameters': 'models.inference_copies: finds changed values',
    },
    'torch.nn.modules.batchnorm': {'_BatchNorm': 'engine.checks: any batch normalization'},
    'torch.nn.modules.conv': {'_ConvNd': 'models.inference_copies: any convolution'},
    'torch.nn.parallel.DistributedDataParallel': {
        '_comm_hooks': 'engine.distributed: registers a hook once'
    },
    'torch.utils': {
        '_python_dispatch': 'models.inference_copies: sees all operators',
        '_pytree': 'models.inference_copies: tensors in any containers',
    },
    'torch.utils.data.DataLoader': {'_get_iterator': 'engine.workers: reports lost workers'},
    'torch.utils.data.dataloader': {
        '_MultiProcessingDataLoaderIter': 'engine.workers: reports lost and slow workers'
    },
    'torch.utils.data.dataloader._MultiProcessingDataLoaderIter': dict.fromkeys(
        [
            *('_get_data', '_num_workers', '_pin_memory', '_pin_memory_thread', '_shutdown'),
            *('_task_info', '_timeout', '_try_get_data', '_workers'),
        ],
        'engine.workers: reports lost and slow workers',
    ),
}
ROWS = [(owner, name, use) for owner, names in PRIVATE_APIS.items() for name, use in names.items()]
# Documented although they begin with an underscore.
PUBLIC = {'_asdict', '_exit', '_replace'}


def resolve(path):
    """Import the module or class with a dotted path."""
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError:
        module, _, name = path.rpartition('.')
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize(
    ('owner', 'name', 'use'), ROWS, ids=[f'{owner}.{name}' for owner, name, _ in ROWS]
)
def test_private_api_exists(owner, name, use):
    found = resolve(owner)
    in_instances = inspect.isclass(found) and any(
        re.search(rf"\bself\.{name}\b|__setattr__\('{name}'", inspect.getsource(base))
        for base in found.__mro__[:-1]
    )
    assert hasattr(found, name) or in_instances, f'{owner}.{name} is missing, needed by {use}'


def private_names():
    """Yield the private names in mmkdml that it does not define, and where."""
    trees = {path: ast.parse(path.read_text()) for path in ROOT.glob('mmkdml/**/*.py')}
    nodes = [(path, node) for path, tree in trees.items() for node in ast.walk(tree)]
    own = set()
    for _, node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.attr if isinstance(node, ast.Attribute) else node.id)
    for path, node in nodes:
        names = []
        if isinstance(node, ast.Attribute):
            names = [node.attr]
        elif isinstance(node, ast.ImportFrom) and not (node.module or '').startswith('mmkdml'):
            names = [alias.name for alias in node.names]
        for name in names:
            if name.startswith('_') and not name.startswith('__') and name not in own:
                yield name, f'{path.relative_to(ROOT)}:{node.lineno}'


def test_all_private_apis_are_listed():
    listed = {name for _, name, _ in ROWS} | PUBLIC
    assert [(name, place) for name, place in private_names() if name not in listed] == []


def test_all_listed_private_apis_are_used():
    source = '\n'.join(path.read_text() for path in ROOT.glob('mmkdml/**/*.py'))
    implicit = {'_cfg_dict'}  # copied with all attributes
    assert [name for _, name, _ in ROWS if name not in source and name not in implicit] == []
