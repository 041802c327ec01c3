"""Sphinx configuration; build with ``make docs``."""

import sys
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS / '_ext'), str(DOCS.parent)]

import mmkdml.compat  # noqa: E402, F401  # prepares the frameworks before autodoc imports them

project = 'mmkdml'
author = copyright = 'The mmkdml Authors'
release = metadata.version('mmkdml')
exclude_patterns = ['_build', '_ext', 'inventories', 'gallery']

extensions = [
    'myst_parser',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx.ext.intersphinx',
    'sphinx.ext.viewcode',
    'sphinx_copybutton',
    # In _ext:
    'config_reference',
    'gallery',
    'names',
    'repository',
]
nitpicky = True
# Not in the documentation of these projects.
nitpick_ignore = [
    ('py:class', 'A.BaseCompose'),
    ('py:class', 'A.BasicTransform'),
    ('py:class', 'mmseg.models.decode_heads.decode_head.BaseDecodeHead'),
]
# Tables of studies are generated for reports, where a title precedes them.
suppress_warnings = ['myst.header']

myst_heading_anchors = 3

# The API reference has a page per package, with the names that it exports.
mmkdml_packages = [
    f'mmkdml.{package}'
    for package in (
        *('functional', 'models', 'datasets', 'engine', 'evaluation', 'apis', 'analysis'),
        *('inspection', 'experiments', 'figures'),
    )
]
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_member_order = 'bysource'
autodoc_typehints = 'description'
autodoc_typehints_description_target = 'documented'
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True

# Committed, because the build must not need a network; see inventories/make.py.
intersphinx_mapping = {
    name: (address, f'inventories/{name}.inv')
    for name, address in {
        'python': 'https://docs.python.org/3/',
        'numpy': 'https://numpy.org/doc/stable/',
        'pandas': 'https://pandas.pydata.org/docs/',
        'matplotlib': 'https://matplotlib.org/stable/',
        'torch': 'https://docs.pytorch.org/docs/stable/',
        'mmcv': 'https://mmcv.readthedocs.io/en/latest/',
        'mmengine': 'https://mmengine.readthedocs.io/en/latest/',
        'mmpretrain': 'https://mmpretrain.readthedocs.io/en/latest/',
        'mmseg': 'https://mmsegmentation.readthedocs.io/en/latest/',
    }.items()
}

html_theme = 'furo'
html_title = f'mmkdml {release}'
html_static_path = ['_static']
html_css_files = ['site.css']
copybutton_prompt_text = r'>>> |\.\.\. |\$ '
copybutton_prompt_is_regexp = True


def setup(app):
    """Connect the handlers below."""
    app.connect('doctree-read', accept_tables_of_studies)
    # After napoleon, which has the priority 500.
    app.connect('autodoc-process-docstring', join_split_summary, priority=600)


def accept_tables_of_studies(app, doctree):
    """Accept pages that no table of contents lists: the tables of the studies, which are linked."""
    if app.env.docname.startswith('studies/') and app.env.docname.count('/') == 2:
        app.env.metadata[app.env.docname]['orphan'] = True


def join_split_summary(app, what, name, obj, options, lines):
    """Undo that napoleon takes the text before a colon for a type, in summaries of properties."""
    for number, line in enumerate(lines):
        if line.startswith(':type: ') and what in ('attribute', 'property', 'data'):
            lines[:] = [f'{line.removeprefix(":type: ")}: {lines[0]}', *lines[1:number]]
            return
