"""Write the inventories of other projects' documentation: python docs/inventories/make.py

The site links to the documentation of Python, NumPy, PyTorch and the OpenMMLab packages. Sphinx
usually downloads the lists of their pages; building the site must not need a network, so the lists
are made from the installed packages and committed. The rules below say on which page of the
official documentation a name is. Run it again after an update of a package.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace

from sphinx.util.inventory import InventoryFile

import mmkdml.compat  # noqa: F401  # prepares the frameworks before they are imported

FOLDER = Path(__file__).parent
ONE_PAGE_EACH = 'generated/{name}.html'

# Distribution, then modules with the page of their names. `None`: all names of the module. A name
# is documented in the first module that has it.
PROJECTS: dict[str, tuple[str, list[tuple[str, str, list[str] | None]]]] = {
    'python': (
        '',
        [
            ('pathlib', 'library/pathlib.html', ['Path']),
            ('collections', 'library/collections.html', ['OrderedDict']),
            ('collections.abc', 'library/collections.abc.html', None),
            ('argparse', 'library/argparse.html', ['ArgumentParser', 'Namespace']),
            ('types', 'library/types.html', ['ModuleType', 'TracebackType']),
            ('datetime', 'library/datetime.html', ['datetime', 'timedelta']),
            ('logging', 'library/logging.html', ['Logger', 'LogRecord', 'Filter']),
            ('abc', 'library/abc.html', ['ABC']),
            ('os', 'library/os.html', ['PathLike']),
        ],
    ),
    'numpy': (
        'numpy',
        [
            ('numpy', f'reference/{ONE_PAGE_EACH}', ['ndarray', 'dtype']),
            ('numpy.random', 'reference/random/generator.html', ['Generator']),
        ],
    ),
    'pandas': (
        'pandas',
        [('pandas', 'reference/api/{name}.html', ['DataFrame', 'Series'])],
    ),
    'matplotlib': (
        'matplotlib',
        [
            ('matplotlib.figure', 'api/figure_api.html', ['Figure']),
            ('matplotlib.axes', 'api/_as_gen/{name}.html', ['Axes']),
            ('matplotlib.artist', 'api/artist_api.html', ['Artist']),
            ('matplotlib.colors', 'api/_as_gen/{name}.html', ['Colormap']),
        ],
    ),
    'torch': (
        'torch',
        [
            ('torch', 'tensors.html', ['Tensor']),
            ('torch', 'tensor_attributes.html', ['device', 'dtype', 'memory_format']),
            ('torch', ONE_PAGE_EACH, ['Generator', 'compile', 'inference_mode', 'no_grad', 'load']),
            ('torch.nn', ONE_PAGE_EACH, None),
            ('torch.nn.functional', ONE_PAGE_EACH, None),
            ('torch.nn.parameter', ONE_PAGE_EACH, ['Parameter']),
            ('torch.nn.parallel', ONE_PAGE_EACH, ['DistributedDataParallel']),
            ('torch.optim', 'optim.html', ['Optimizer']),
            ('torch.optim', ONE_PAGE_EACH, ['Adam', 'AdamW', 'SGD']),
            ('torch.utils.data', 'data.html', None),
            ('torch.export', 'export.html', ['export', 'load', 'ExportedProgram']),
            ('torch.profiler', 'profiler.html', ['profile']),
        ],
    ),
    'mmcv': (
        'onedl-mmcv',
        [('mmcv.transforms', f'api/{ONE_PAGE_EACH}', None)],
    ),
    'mmengine': (
        'onedl-mmengine',
        [
            (f'mmengine.{part}', f'api/{ONE_PAGE_EACH}', None)
            for part in (
                *('analysis', 'config', 'dataset', 'device', 'dist', 'evaluator', 'fileio'),
                *('hooks', 'infer', 'logging', 'model', 'optim', 'registry', 'runner'),
                *('structures', 'utils', 'visualization'),
            )
        ],
    ),
    'mmpretrain': (
        'onedl-mmpretrain',
        [
            (f'mmpretrain.{part}', f'api/{ONE_PAGE_EACH}', None)
            for part in (
                *('apis', 'datasets', 'datasets.transforms', 'engine.hooks', 'engine.optimizers'),
                *('evaluation', 'models.classifiers', 'models.backbones', 'models.necks'),
                *('models.heads', 'models.losses', 'models.utils', 'structures'),
            )
        ],
    ),
    'mmseg': (
        'onedl-mmsegmentation',
        [
            (f'mmseg.{part}', 'api.html', None)
            for part in (
                *('apis', 'datasets', 'datasets.transforms', 'engine.hooks', 'engine.optimizers'),
                *('evaluation.metrics', 'models.segmentors', 'models.backbones'),
                *('models.decode_heads', 'models.losses', 'models.necks', 'models', 'structures'),
                *('utils', 'visualization'),
            )
        ],
    ),
}  # fmt: skip


def documented(project: str) -> Iterator[tuple[str, str, str, str, str, int]]:
    """Yield Sphinx's description of each name: name, title, kind, page, anchor, priority."""
    seen = set()
    for module_name, page, names in PROJECTS[project][1]:
        module = importlib.import_module(module_name)
        for short in public_names(module, project) if names is None else names:
            value, name = getattr(module, short), f'{module_name}.{short}'
            if name not in seen:
                seen.add(name)
                yield name, name, kind_of(value), page.format(name=name), name, 1


def public_names(module: ModuleType, project: str) -> list[str]:
    """Return the classes and functions of the project that a module lists or defines."""
    names = getattr(module, '__all__', None) or [
        name for name in vars(module) if not name.startswith('_')
    ]
    return sorted(
        name
        for name in names
        if callable(value := getattr(module, name))
        and (project == 'python' or getattr(value, '__module__', '').startswith(project))
    )


def kind_of(value: object) -> str:
    """Return the kind of a name in Sphinx's Python domain."""
    if not inspect.isclass(value):
        return 'function'
    return 'exception' if issubclass(value, Exception) else 'class'


def main() -> None:
    for project, (distribution, _) in PROJECTS.items():
        objects = list(documented(project))
        version = metadata.version(distribution) if distribution else '3'
        domain = SimpleNamespace(name='py', get_objects=lambda objects=objects: objects)
        environment = SimpleNamespace(
            config=SimpleNamespace(project=project, version=version),
            domains=SimpleNamespace(sorted=lambda domain=domain: [domain]),
        )
        builder = SimpleNamespace(get_target_uri=lambda page: page)
        InventoryFile.dump(FOLDER / f'{project}.inv', environment, builder)
        print(f'{project}.inv: {len(objects)} names of version {version}')


if __name__ == '__main__':
    main()
