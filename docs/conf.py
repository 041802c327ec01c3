"""Sphinx configuration; build with ``make docs``."""

from importlib import metadata

project = 'mmkdml'
author = 'The mmkdml Authors'
release = metadata.version('mmkdml')

extensions = ['myst_parser']
myst_heading_anchors = 3
# Links to configs and sources work in the repository only.
suppress_warnings = ['myst.xref_missing']
exclude_patterns = ['_build', 'studies/*/*']
html_theme = 'furo'
html_title = f'mmkdml {release}'
