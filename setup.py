"""What mmkdml needs to be installed. Tool settings live in ``pyproject.toml``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Read, not imported: importing mmkdml needs torch, which is not there yet.
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'mmkdml/version.py').read_text()).group(1)

# Lower bounds: the versions tested, or older where a package is known to keep its word. Upper
# bounds: the next version that may break us.
INSTALL_REQUIRES = [
    # 2.7 can be told what a safe checkpoint may hold; tested with 2.13.
    'torch>=2.7,<3',
    # mmpretrain imports it and does not say so; 0.22 belongs to torch 2.7.
    'torchvision>=0.22,<1',
    # Runner, registries, configs, hooks.
    'onedl-mmengine>=0.10.12,<0.11',
    # Transforms and image reading. mmpretrain and mmseg name it in extras alone.
    'onedl-mmcv>=2.3.6,<3',
    # Classifiers.
    'onedl-mmpretrain>=1.3.6,<2',
    # Segmentors.
    'onedl-mmsegmentation>=1.4.2,<2',
    # MobileNet v1 and every other backbone of timm, through mmpretrain's TIMMBackbone.
    'timm>=1.0.9,<2',
    # Weights in files that can hold nothing else.
    'safetensors>=0.4,<1',
    # YAML that is data alone; mmengine reads it, too.
    'pyyaml>=6,<7',
    # Lays out configs for mmengine, which is kept: it takes long.
    'yapf>=0.40,<1',
    # One of several processes writes the decoded images; torch needs it, too.
    'filelock>=3.12,<5',
    # Augmentation of image and mask together.
    'albumentations>=2.0.8,<3',
    # Arrays; mmseg needs 2.
    'numpy>=2,<3',
    # Image files; the same distribution as mmcv asks for.
    'opencv-python>=4.10,<6',
    # Reads what the converters check.
    'pillow>=10.1,<14',
    # Panels of predictions.
    'matplotlib>=3.9,<4',
    # Triangles of the weights that were searched.
    'mpltern>=1,<2',
    # Tables of members.
    'prettytable>=3.8,<4',
    # Progress of the converters.
    'rich>=13,<16',
    # State and results of suites, in SQLite or any other database.
    'sqlalchemy>=2.0.30,<3',
    # The search for weights: samplers, pruning, shared storage.
    'optuna>=5,<6',
    # Tables of cases and results.
    'pandas>=2.2,<4',
    # Checks what others may have written: results of runs, rows of databases.
    'pydantic>=2.9,<3',
    # Bootstrap.
    'scipy>=1.13,<2',
    # Grad-CAM.
    'captum>=0.8,<1',
    # Divergence and confusion of students' answers with their teacher's.
    'torchmetrics>=1.9,<2',
    # Correction for many claims.
    'statsmodels>=0.14.4,<1',
    # Reports, and LaTeX tables by pandas.
    'jinja2>=3.1,<4',
]

# Deployment, by tools/export.py.
EXPORT = [
    # The format, and its checks.
    'onnx>=1.18,<2',
    # Runs exported models, and quantises them.
    'onnxruntime>=1.22,<2',
    # Writes ONNX from torch.export's graphs.
    'onnxscript>=0.5,<1',
]

# Volumes, for tools/predict.py.
MEDICAL = [
    # NIfTI: volumes in, masks out.
    'nibabel>=5.3,<6',
    # DICOM series.
    'pydicom>=3,<4',
]

EXTRAS_REQUIRE = {
    'export': EXPORT,
    'medical': MEDICAL,
    'test': [
        *EXPORT,
        *MEDICAL,
        'pytest>=9,<10',
        # On two cores, two processes of one thread finish sooner than one of two threads.
        'pytest-xdist>=3.8,<4',
        # Makes up what files and settings may hold.
        'hypothesis>=6.100,<7',
        # Reads what runs log for it.
        'tensorboard>=2.18,<3',
        # The independent oracle of the U-Net.
        'segmentation-models-pytorch>=0.6,<0.7',
    ],
    'docs': ['sphinx>=8,<10', 'myst-parser>=4,<6', 'furo>=2025,<2027'],
    'dev': [
        'build>=1.3,<2',
        'twine>=6,<8',
        'ruff>=0.17,<0.18',
        'mypy>=2.4,<3',
        'import-linter>=2.16,<3',
        # For its search for duplicated code alone.
        'pylint>=4.1,<5',
        'pre-commit>=4.7,<5',
    ],
}

setup(
    name='mmkdml',
    version=VERSION,
    description='Knowledge distillation with learning styles for MMPretrain and MMSegmentation',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmkdml Authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmkdml', 'mmkdml.*']),
    package_data={'mmkdml.experiments': ['paper/data/*.csv', 'report/templates/*.j2']},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
