"""Prediction with the runs of all folds of a cross-validation."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkdml.apis.prediction.image_pipeline import FoldPipelines, ImagePipeline, test_steps
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.apis.run.settings import settings_difference
from mmkdml.models.member_tta import FoldEnsemble
from mmkdml.names import fold_folder

_FOLD, _SEED = re.compile(r'fold_(\d+)'), re.compile(r'seed_(\d+)')


class FoldPredictor(Predictor):
    """Mean probabilities of the runs of several folds, for each member and for the ensemble.

    Volumes are normalized for each run by the statistics of its own training part.

    Args:
        predictors: Predictor of each run, see :func:`~mmkdml.apis.load`.

    Raises:
        ValueError: If there are fewer than two, they differ in members, classes or inputs, or
            are detectors.
    """

    def __init__(self, predictors: Sequence[Predictor]) -> None:
        if len(predictors) < 2:
            raise ValueError(f'Invalid folds: expected at least 2 runs, got {len(predictors)}')
        first = predictors[0]
        if first.task == 'detection':
            raise ValueError(
                'Invalid folds: expected classifiers or segmentors, whose probabilities can '
                'be averaged, got detectors. Predict with one of the runs'
            )
        for other in predictors[1:]:
            pairs = {
                key: (getattr(first, key), getattr(other, key))
                for key in ('task', 'members', 'multi_label', 'classes', 'channels')
            }
            pairs['pipeline'] = str(_steps(first, False)), str(_steps(other, False))
            changes = {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}
            if changes:
                raise ValueError(
                    f'Invalid folds: expected equal networks and inputs, got different ones in '
                    f'{first.checkpoint} and {other.checkpoint}:\n{settings_difference(changes)}'
                )
        super().__init__(first.model, first.config, first.classes, first.checkpoint, first.colors)
        self.model = FoldEnsemble([one.model for one in predictors])
        self.predictors = tuple(predictors)

    def pipeline(self, augment: bool = False) -> ImagePipeline | FoldPipelines:
        """Build the test pipeline, or those of all runs if they differ in their statistics."""
        if len({str(_steps(one)) for one in self.predictors}) == 1:
            return super().pipeline(augment)
        return FoldPipelines([ImagePipeline(one.config, augment) for one in self.predictors])

    @property
    def checkpoint_sha256(self) -> str | None:
        """SHA-256 of the hashes of all weight files."""
        hashes = [str(one.checkpoint_sha256) for one in self.predictors]
        return hashlib.sha256(' '.join(hashes).encode()).hexdigest()


def find_fold_runs(folder: str | Path, seed: int | None = None) -> list[Path]:
    """Find the runs of all folds in a folder.

    Args:
        folder: Folder with ``fold_<k>`` or ``fold_<k>/seed_<s>``, such as that of a run of a suite.
        seed: Random seed, if there are several.

    Returns:
        Folders of the runs, fold 0 first; empty if the folder has no folds, or is a run itself.

    Raises:
        ValueError: If a fold is missing, or there is not exactly one such seed.
    """
    folder = Path(folder)
    if not folder.is_dir() or any(folder.glob('*.py')):
        return []
    folds = {
        int(match[1]): path for path in folder.iterdir() if (match := _FOLD.fullmatch(path.name))
    }
    if not folds:
        return []
    missing = [fold_folder(one) for one in range(max(folds) + 1) if one not in folds]
    if missing:
        raise ValueError(
            f'Invalid folds in {folder}: expected {fold_folder(0)} to {fold_folder(max(folds))}, '
            f'got none of {", ".join(missing)}. Train them first'
        )
    paths = [folds[fold] for fold in sorted(folds)]
    found = [
        {int(match[1]) for one in path.iterdir() if (match := _SEED.fullmatch(one.name))}
        for path in paths
    ]
    if not any(found) and seed is None:
        return paths
    common = sorted(set.intersection(*found))
    chosen = [one for one in common if seed in (None, one)]
    if len(chosen) != 1:
        raise ValueError(
            f'Invalid seed of {folder}: expected one that all folds have '
            f'({", ".join(map(str, common)) or "none"}), got {seed}. Choose it with --seed'
        )
    return [path / f'seed_{chosen[0]}' for path in paths]


def _steps(predictor: Predictor, with_statistics: bool = True) -> list[Any]:
    """Return the settings of a test pipeline, with or without the statistics of a fold."""
    steps = test_steps(predictor.config)
    return steps if with_statistics else [_without_statistics(step) for step in steps]


def _without_statistics(step: Any) -> Any:
    if not isinstance(step, Mapping) or not isinstance(channels := step.get('channels'), list):
        return step
    names = [(one.get('name'), one.get('scheme')) for one in channels if isinstance(one, Mapping)]
    return {**step, 'channels': names}
