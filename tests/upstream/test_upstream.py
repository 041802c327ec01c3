"""Tests of MMPretrain and MMSegmentation, run on a classroom with one member.

They need clones of the repositories, which the packages do not contain, and scikit-learn:

    MMPRETRAIN_SOURCE=DIR MMSEG_SOURCE=DIR pytest tests/upstream
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

MODULES = dict(
    MMPRETRAIN_SOURCE=(
        'test_evaluation/test_metrics/test_single_label.py',
        'test_evaluation/test_metrics/test_multi_label.py',
        'test_models/test_classifiers.py',
        'test_models/test_heads.py',
        'test_models/test_tta.py',
        'test_engine/test_optimizers',
    ),
    MMSEG_SOURCE=(
        'test_evaluation/test_metrics/test_iou_metric.py',
        'test_models/test_heads',
        'test_models/test_segmentors',
        'test_engine/test_layer_decay_optimizer_constructor.py',
    ),
)
SUBSTITUTES = dict(
    MMPRETRAIN_SOURCE={
        *('Accuracy', 'SingleLabelMetric', 'MultiLabelMetric', 'AveragePrecision', 'MemberTTA'),
        *('ImageClassifier.loss', 'ImageClassifier.predict', 'ClsHead.loss', 'ConformerHead.loss'),
        'LearningRateDecayOptimWrapperConstructor',
    },
    MMSEG_SOURCE={
        *('EncoderDecoder.loss', 'EncoderDecoder.predict', 'CascadeEncoderDecoder.loss'),
        *('IoUMetric', 'MemberTTA', 'LearningRateDecayOptimizerConstructor'),
    },
)
# mmkdml prepares the frameworks before the tests import them.
RUN = 'import mmkdml.models, pytest, sys; sys.exit(pytest.main(sys.argv[1:]))'


def run(source, modules, *options):
    """Return passed and failed tests, and the substitutes that were called."""
    here = Path(__file__).parent
    paths = [here.parents[1], here, os.environ.get('PYTHONPATH', '')]
    done = subprocess.run(
        [
            *(sys.executable, '-c', RUN, '-q', '-rA', '-p', 'no:cacheprovider', *options),
            *(f'tests/{one}' for one in modules),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=source,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, paths))},
    )
    passed, failed, substitutes = (
        {*re.findall(pattern, done.stdout, re.MULTILINE)}
        for pattern in (r'^PASSED (\S+)', r'^(?:FAILED|ERROR) (\S+)', r'^substitute (\S+)')
    )
    assert passed, done.stdout + done.stderr
    return passed, failed, substitutes


@pytest.mark.slow
@pytest.mark.parametrize('name', MODULES)
def test_upstream_tests_pass_as_without_mmkdml(name):
    """Some fail in both, for lack of compiled operators or of other packages."""
    if name not in os.environ:
        pytest.skip(f'set {name} to a clone of the repository')
    passed, failed, _ = run(os.environ[name], MODULES[name])
    own_passed, own_failed, substitutes = run(os.environ[name], MODULES[name], '-p', 'substitutes')
    assert own_passed == passed
    assert own_failed == failed
    assert SUBSTITUTES[name] <= substitutes
