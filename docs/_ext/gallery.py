"""Draw the pictures of the gallery before the build, unless the code has not changed since."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from code_lines import ROOT
from draw_gallery import PICTURES
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

DRAW = Path(__file__).with_name('draw_gallery.py')
# What the pictures are made from.
SOURCES = (
    'mmkdml/**/*.py',
    'mmkdml/**/*.j2',
    'configs/_base_/**/*.py',
    'configs/demo/*.py',
    'tools/**/*.py',
)


def fingerprint() -> str:
    """Return a hash of the code that draws the pictures."""
    digest = hashlib.sha256(DRAW.read_bytes())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def draw(app: Sphinx) -> None:
    """Draw the pictures into ``docs/gallery``, which Git ignores."""
    folder = ROOT / 'docs' / 'gallery'
    stamp, current = folder / 'fingerprint', fingerprint()
    complete = all((folder / name).is_file() for name in PICTURES)
    if complete and stamp.is_file() and stamp.read_text() == current:
        return
    # Not logged, because --quiet would hide why the build takes a minute longer.
    print('Training the demo for the pictures of the gallery', file=sys.stderr, flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    paths = [str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]
    done = subprocess.run(
        [sys.executable, str(DRAW), str(folder)],
        env=os.environ | {'PYTHONPATH': os.pathsep.join(paths)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ExtensionError(f'The pictures of the gallery cannot be drawn:\n{done.stdout[-3000:]}')
    stamp.write_text(current)


def setup(app: Sphinx) -> dict[str, bool]:
    # Before the files of the site are listed, which include the pictures.
    app.connect('config-inited', lambda app, config: draw(app))
    return dict(parallel_read_safe=True, parallel_write_safe=True)
