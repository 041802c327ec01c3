"""Links from pages to files, lines and classes of the repository.

Paths in backticks, such as `configs/kdml/r50_r18x2_v3_lgg.py`, become links to a page with the
file, and names of public classes and functions become links to the API reference. The role
``{line}`` links to the line with a piece of code, so that the page cannot become outdated.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_lines import ROOT, find_line, public_names, repository_file
from docutils import nodes
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxRole

FOLDER = '_repository'
# Files of the repository's root that are pages of the site.
PAGES = {
    'CHANGELOG.md': 'changelog',
    'CONTRIBUTING.md': 'contributing',
    'SECURITY.md': 'security_policy',
}


def file_page(env: BuildEnvironment, docname: str, path: Path, line: int | None = None) -> str:
    """Return the address of the page of a file, relative to the page ``docname``."""
    name = path.relative_to(ROOT).as_posix()
    docs = ROOT / 'docs'
    if path.suffix == '.md' and path.is_relative_to(docs):
        page = path.relative_to(docs).with_suffix('').as_posix()
        if page in env.found_docs:
            return env.app.builder.get_relative_uri(docname, page)
    if name in PAGES:
        return env.app.builder.get_relative_uri(docname, PAGES[name])
    linked_files(env).setdefault(docname, set()).add(name)
    address = env.app.builder.get_relative_uri(docname, f'{FOLDER}/{name}')
    return f'{address}#L-{line}' if line else address


def linked_files(env: BuildEnvironment) -> dict[str, set[str]]:
    """Return the linked files of each page; kept in the environment for incremental builds."""
    if not hasattr(env, 'mmkdml_linked_files'):
        env.mmkdml_linked_files = {}
    return env.mmkdml_linked_files


class LinkRepository(SphinxTransform):
    """Link files and public names that are written as code, and links to files outside of docs."""

    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        folder = Path(self.env.doc2path(self.env.docname)).parent
        for node in list(self.document.findall(addnodes.download_reference)):
            path = Path(os.path.normpath(folder / node['reftarget']))
            if path.is_relative_to(ROOT) and path.is_file():
                link(node, file_page(self.env, self.env.docname, path))
        for node in list(self.document.findall(addnodes.pending_xref)):
            if node.get('refdomain') == 'doc' and node['reftarget'].startswith(('..', '/')):
                path = Path(os.path.normpath(ROOT / 'docs' / f'{node["reftarget"]}.md'))
                link(node, file_page(self.env, self.env.docname, path))
        names = self.env.app.config.mmkdml_names
        for node in list(self.document.findall(nodes.literal)):
            linked = (nodes.reference, nodes.title, addnodes.pending_xref)
            if any(isinstance(parent, linked) for parent in parents(node)):
                continue
            text = node.astext()
            if path := repository_file(text):
                link(node, file_page(self.env, self.env.docname, path), node.deepcopy())
                continue
            short = text.removesuffix('()')
            name = names.get(short.rpartition('.')[2])
            if name and short in (name, name.rpartition('.')[2]):
                target = dict(refdomain='py', reftype='obj', reftarget=name, refwarn=True)
                where = dict(refdoc=self.env.docname, refexplicit=True)
                node.replace_self(addnodes.pending_xref('', node.deepcopy(), **target, **where))


def parents(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def link(node: nodes.Element, address: str, *children: nodes.Node) -> None:
    """Replace a node by a link with its content, or with the given content."""
    content = children or tuple(node.children)
    node.replace_self(nodes.reference('', '', *content, refuri=address, internal=True))


class LineRole(SphinxRole):
    """``{line}`object::code```: link to the only line of the object with this code."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        try:
            name, line = find_line(self.text)
        except ValueError as error:
            message = self.inliner.reporter.error(str(error), line=self.lineno)
            return [nodes.literal('', self.text)], [message]
        self.env.note_dependency(str(ROOT / name))
        text = f'{name.removeprefix("mmkdml/")}:{line}'
        node = nodes.reference('', '', nodes.literal('', text), internal=True)
        node['refuri'] = file_page(self.env, self.env.docname, ROOT / name, line)
        node['reftitle'] = self.text.partition('::')[2]
        return [node], []


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each linked file."""
    formatter = HtmlFormatter(lineanchors='L', anchorlinenos=True, linenos='inline')
    for name in sorted(set().union(*linked_files(app.env).values())):
        code = (ROOT / name).read_text(encoding='utf-8')
        try:
            lexer = get_lexer_for_filename(name)
        except ClassNotFound:
            lexer = TextLexer()
        body = highlight(code, lexer, formatter)
        yield f'{FOLDER}/{name}', dict(title=name, body=f'<h1>{name}</h1>{body}'), 'page.html'


def find_names(app: Sphinx, config: Any) -> None:
    config.mmkdml_names = public_names(tuple(config.mmkdml_packages))


def forget(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    linked_files(env).pop(docname, None)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_config_value('mmkdml_packages', [], 'env')
    app.add_config_value('mmkdml_names', {}, '')
    app.add_transform(LinkRepository)
    app.add_role('line', LineRole())
    app.connect('config-inited', find_names)
    app.connect('env-purge-doc', forget)
    app.connect('html-collect-pages', pages)
    return dict(parallel_read_safe=False, parallel_write_safe=True)
