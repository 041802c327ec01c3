"""Draw the pictures of the example gallery: python docs/_ext/draw_gallery.py OUT

It runs the commands of ``make demo`` and those that the gallery shows, with fewer patients and
epochs, in one process. OUT gets the pictures and the page of the run.
"""

from __future__ import annotations

import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MASKS, LABELS = 'masks', 'labels'  # folders of the runs
# Config and epochs: enough for good predictions with visible errors, in a minute on one core.
RUNS = {MASKS: ('kdml_v3_demo', 28), LABELS: ('kdml_v3_demo_slices', 6)}
PATIENTS, SLICES = 20, 5
# Name in the gallery: the file that a tool has written.
PICTURES = {
    'panels.png': f'{MASKS}/panels/panels.png',
    'worst.png': f'{MASKS}/analysis/panels/worst.png',
    'cka.png': f'{MASKS}/analysis/cka/cka.png',
    'reliability.png': f'{MASKS}/calibration/reliability.png',
    'grad_cam.png': f'{LABELS}/analysis/panels/worst.png',
    'confusion.png': f'{LABELS}/confusion/confusion.png',
    'summary.html': f'{MASKS}/summary.html',
}


def main(out: Path) -> None:
    """Train both demo configs in a temporary folder, and copy the pictures to ``out``."""
    out = out.resolve()
    with tempfile.TemporaryDirectory() as folder, working_in(Path(folder)):
        tool(
            'dataset_converters/make_demo_data.py',
            'source',
            '--patients',
            PATIENTS,
            '--slices',
            SLICES,
        )
        tool('dataset_converters/lgg.py', 'source', '--out', 'splits')
        data = [
            f'{part}_dataloader.dataset.{key}={value}'
            for part in ('train', 'val', 'test')
            for key, value in (('data_root', 'source'), ('ann_file', f'splits/{part}.csv'))
        ]
        for run, (config, epochs) in RUNS.items():
            schedule = [f'train_cfg.max_epochs={epochs}', f'param_scheduler.T_max={epochs}']
            options = ('--fast', '--quiet', '--work-dir', run, '--cfg-options', *data, *schedule)
            tool('train.py', ROOT / 'configs' / 'demo' / f'{config}.py', *options)
            tool('test.py', run)
            tool('analysis/panels.py', run, '--num', 3)
        tool('analysis/cka.py', MASKS)
        out.mkdir(parents=True, exist_ok=True)
        for name, source in PICTURES.items():
            shutil.copyfile(source, out / name)


def tool(name: str, *arguments: object) -> None:
    """Run a tool of the repository in this process."""
    print('$ python tools/' + ' '.join([name, *map(str, arguments)]), flush=True)
    sys.argv = [name, *map(str, arguments)]
    runpy.run_path(str(ROOT / 'tools' / name))['main']()


@contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Change the working directory for the time of the block."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


if __name__ == '__main__':
    main(Path(sys.argv[1]))
