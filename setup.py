"""Package metadata and dependencies; ``pyproject.toml`` has the settings of tools."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
# Not imported, so that the build needs no other package.
VERSION = re.search(r"__version__ = '(.+)'", (ROOT / 'mmkdml/version.py').read_text()).group(1)

# Lower bounds: the tested versions, or older ones of packages with stable interfaces. Upper bounds:
# the next version that may break mmkdml.
INSTALL_REQUIRES = [
    # 2.7 can restrict the classes that a checkpoint may contain; tested with 2.13.
    'torch>=2.7,<3',
    # Imported by mmpretrain, which does not declare it; 0.22 belongs to torch 2.7.
    'torchvision>=0.22,<1',
    # Runner, registries, configs, hooks.
    'onedl-mmengine>=0.10.12,<0.11',
    # Transforms and image reading; mmpretrain and mmseg declare it only in extras.
    'onedl-mmcv>=2.3.6,<3',
    # Classifiers.
    'onedl-mmpretrain>=1.3.6,<2',
    # Segmentors.
    'onedl-mmsegmentation>=1.4.2,<2',
    # Backbones, through mmpretrain's TIMMBackbone.
    'timm>=1.0.9,<2',
    # Weights, in files that cannot contain code.
    'safetensors>=0.4,<1',
    # Safe loader for YAML configs.
    'pyyaml>=6,<7',
    # Lets one of several processes write the image cache; torch requires it, too.
    'filelock>=3.12,<5',
    # Joint augmentation of images and masks.
    'albumentations>=2.0.8,<3',
    # mmseg requires NumPy 2.
    'numpy>=2,<3',
    # Image files; the same distribution as mmcv requires.
    'opencv-python>=4.10,<6',
    # Image files.
    'pillow>=10.1,<14',
    # Panels of predictions, reliability diagrams.
    'matplotlib>=3.9,<4',
    # Tables of members.
    'prettytable>=3.8,<4',
    # Progress bars.
    'rich>=13,<16',
    # HTML pages; torch requires it, too.
    'jinja2>=3.1,<4',
    # Text that is HTML already; jinja2 requires it, too.
    'markupsafe>=2,<4',
    # Tables of cases and metrics.
    'pandas>=2.2,<4',
    # KL divergence and confusion matrices of the Fidelity metric.
    'torchmetrics>=1.9,<2',
]

# Suites, their statistics and reports, and tuning.
EXPERIMENTS = [
    # State and results of suites, in SQLite or another database.
    'sqlalchemy>=2.0.30,<3',
    # Samplers, pruning and shared storage of tuning.
    'optuna>=5,<6',
    # Ternary plots of tuned weights.
    'mpltern>=1,<2',
    # Validation of stored results and database rows.
    'pydantic>=2.9,<3',
    # Bootstrap.
    'scipy>=1.13,<2',
]

# Grad-CAM.
ANALYSIS = ['captum>=0.8,<1']

# tools/export.py.
EXPORT = [
    # The format and its checker.
    'onnx>=1.18,<2',
    # Runs and quantizes exported models.
    'onnxruntime>=1.22,<2',
    # Conversion of graphs of torch.export to ONNX.
    'onnxscript>=0.5,<1',
    # Confidence intervals of model cards.
    'scipy>=1.13,<2',
]

# Volumes, for tools/predict.py, and clinical metrics.
MEDICAL = [
    # NIfTI: volumes, and masks for DICOM as well.
    'nibabel>=5.3,<6',
    # DICOM series.
    'pydicom>=3,<4',
    # DICOM segmentation objects; brings pyjpegls, which decodes JPEG-LS.
    'highdicom>=0.28,<0.29',
    # Decodes JPEG 2000 in DICOM, with the next one.
    'pylibjpeg>=2,<3',
    'pylibjpeg-openjpeg>=2.3,<3',
    # Surfaces and lesions.
    'scipy>=1.13,<2',
]

# Needs of onedl-mmdetection, which `make install` and users install with pip's --no-deps: its
# dependency imaug needs an older NumPy and OpenCV.
DETECTION = [
    # COCO annotations and AP; 2.0.8 is the first for NumPy 2.
    'pycocotools>=2.0.8,<3',
    # Polygons of masks.
    'shapely>=2,<3',
    # Assignment of boxes.
    'scipy>=1.13,<2',
    # Tables of AP.
    'terminaltables>=3.1.10,<4',
    # Only imported.
    'six>=1.16,<2',
    'tqdm>=4.66,<5',
]

# Services of tools/train.py --log; not part of `all`, because they bring many packages.
LOGGING = [
    # Also reads the logs that runs write for it.
    TENSORBOARD := 'tensorboard>=2.18,<3',
    'wandb>=0.19,<1',
    'mlflow-skinny>=3,<4',
    # Local store of mlflow.
    'sqlalchemy>=2.0.30,<3',
]

# tools/view.py; not part of `all`, because Gradio brings many packages and an older Pillow.
VIEW = [
    # The page. 6.31 can turn off its history of runs.
    'gradio>=6.31,<7',
    # Hold the page; gradio requires them, too.
    'fastapi>=0.115,<1',
    'uvicorn>=0.30,<1',
]

# tools/suite.py run --engine ray; not part of `all`, because it is large.
RAY = ['ray>=2.40,<3']

ALL = sorted({*EXPERIMENTS, *ANALYSIS, *EXPORT, *MEDICAL, *DETECTION})

EXTRAS_REQUIRE = {
    'experiments': EXPERIMENTS,
    'analysis': ANALYSIS,
    'export': EXPORT,
    'medical': MEDICAL,
    'detection': DETECTION,
    'logging': LOGGING,
    'view': VIEW,
    'ray': RAY,
    'all': ALL,
    'test': [
        *ALL,
        *VIEW,
        *RAY,
        'pytest>=9,<10',
        # On two cores, two processes with one thread finish sooner than one with two threads.
        'pytest-xdist>=3.8,<4',
        # Generates files and settings.
        'hypothesis>=6.100,<7',
        # Opens reports in an installed Chromium.
        'playwright>=1.50,<2',
        TENSORBOARD,
        # Independent oracle for the U-Net.
        'segmentation-models-pytorch>=0.6,<0.7',
        # Independent oracle for surface distances.
        'monai>=1.5,<2',
        # Build and check distributions, which a test installs and uses.
        BUILD := 'build>=1.3,<2',
        TWINE := 'twine>=6,<8',
    ],
    'docs': [
        # 8.2 has the interfaces that docs/_ext uses, and requires Python 3.11.
        'sphinx>=8.2,<10',
        'myst-parser>=4,<6',
        'furo>=2025,<2027',
        # Buttons that copy examples.
        'sphinx-copybutton>=0.5.2,<1',
    ],
    'dev': [
        BUILD,
        TWINE,
        'ruff>=0.17,<0.18',
        'mypy>=2.4,<3',
        'import-linter>=2.16,<3',
        # Only to find duplicated code.
        'pylint>=4.1,<5',
        'pre-commit>=4.7,<5',
    ],
}

setup(
    name='mmkdml',
    version=VERSION,
    description='Knowledge distillation with learning styles for OpenMMLab frameworks',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmkdml Authors',
    license='Apache-2.0',
    python_requires='>=3.10',
    packages=find_packages(include=['mmkdml', 'mmkdml.*']),
    # .mim and configs are links to folders of the repository, where mim, mmengine and the command
    # mmkdml find them.
    package_data={
        'mmkdml': [*(f'.mim/**/*.{suffix}' for suffix in ('py', 'sh', 'yml')), 'configs/**/*.py'],
        'mmkdml.experiments': ['paper/data/*.csv', 'report/templates/*.j2'],
        'mmkdml.figures': ['*.mplstyle'],
        'mmkdml.apis': ['summary/*.j2'],
        'mmkdml.html': ['assets/*'],
    },
    entry_points={'console_scripts': ['mmkdml = mmkdml.__main__:main']},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
