"""Resolve references to objects by the names under which they are documented.

Type hints name the module that defines a class, ``torch.nn.modules.module.Module``; it is
documented where it is exported, as ``torch.nn.Module``. The same holds for classes of mmkdml.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from code_lines import find_object
from docutils import nodes
from repository import file_page
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.ext.intersphinx import InventoryAdapter

KINDS = ('py:class', 'py:function', 'py:exception')


def resolve(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a reference of the Python domain that Sphinx has not found."""
    if node.get('refdomain') != 'py':
        return None
    for target in candidates(node):
        if target.startswith('mmkdml.'):
            reference = internal(app, env, node, target, content)
        else:
            reference = external_by_prefix(env, target, content) or external_by_home(
                env, target, content
            )
        if reference:
            return reference
    return by_end(app, env, node, content)


def external_by_home(
    env: BuildEnvironment, target: str, content: nodes.TextElement
) -> nodes.reference | None:
    """Return a reference to a name that another project exports elsewhere, too."""
    if '.' not in target:
        return None
    try:
        home = getattr(find_object(target), '__module__', None)
    except ValueError:
        return None
    return external_by_prefix(env, f'{home}.{target.rpartition(".")[2]}', content)


def by_end(
    app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement
) -> nodes.reference | None:
    """Resolve a type hint that is a name in its module, such as ``Path`` or ``nn.Module``."""
    target = node['reftarget']
    inventory = InventoryAdapter(env).main_inventory
    found = {name for kind in KINDS for name in inventory[kind] if name.endswith(f'.{target}')}
    if found:
        return external(env, min(found, key=len), content)
    short = target.rpartition('.')[2]
    for name, module in sorted(sys.modules.items()):
        possible = name.startswith('mmkdml.') and hasattr(module, short)
        reference = possible and internal(app, env, node, f'{name}.{short}', content)
        if reference:
            return reference
    return None


def candidates(node: addnodes.pending_xref) -> Iterator[str]:
    """Yield the full names that a reference may mean."""
    target = node['reftarget']
    yield target
    # A short name is one of the module that defines the documented object.
    found = re.search(r'docstring of (mmkdml[\w.]*)', node.source or '')
    owner = found[1] if found else node.get('py:module') or ''
    while owner:
        yield f'{owner}.{target}'
        owner = owner.rpartition('.')[0]


def internal(
    app: Sphinx,
    env: BuildEnvironment,
    node: addnodes.pending_xref,
    target: str,
    content: nodes.TextElement,
) -> nodes.reference | None:
    """Return a reference to the documentation of a name of mmkdml, or else to its line of code."""
    short, docname = target.rpartition('.')[2], node['refdoc']
    with suppress(ValueError):
        value = find_object(target)
        home = getattr(value, '__module__', None)
        foreign = isinstance(home, str) and not home.startswith('mmkdml')
        if foreign and (reference := external_by_prefix(env, f'{home}.{short}', content)):
            return reference
        for name, entry in env.domains.python_domain.objects.items():
            if name.rpartition('.')[2] == short and same(name, value):
                address = app.builder.get_relative_uri(docname, entry.docname)
                return nodes.reference(
                    '', '', content, refuri=f'{address}#{entry.node_id}', internal=True
                )
    if place := definition(target):
        address = file_page(env, docname, *place)
        return nodes.reference('', '', content, refuri=address, internal=True)
    return None


def definition(target: str) -> tuple[Path, int] | None:
    """Return file and line where a name of mmkdml that is not documented is defined."""
    owner, _, short = target.rpartition('.')
    try:
        home = find_object(owner)
        lines, first = inspect.getsourcelines(home)
    except (ValueError, TypeError, OSError):
        return None
    assigned = rf'(?:[\w, =]*\b|\s*self\.){short}\b\s*(?::.*)?=(?!=)'
    pattern = re.compile(rf'{assigned}|\s*(?:def|class) {short}\b')
    for number, line in enumerate(lines, first or 1):
        if pattern.match(line):
            return Path(inspect.getsourcefile(home)), number
    value = inspect.unwrap(getattr(home, short, None))
    if inspect.ismodule(value):
        return Path(value.__file__), 1
    # Inherited, or imported from another module.
    if inspect.isroutine(value) and value.__module__.startswith('mmkdml.'):
        return Path(inspect.getsourcefile(value)), inspect.getsourcelines(value)[1]
    return None


def same(name: str, value: Any) -> bool:
    try:
        return find_object(name) is value
    except ValueError:
        return False


def external_by_prefix(
    env: BuildEnvironment, target: str, content: nodes.TextElement
) -> nodes.reference | None:
    """Return a reference to another project by the shortest path that its inventory has."""
    *path, short = target.split('.')
    for end in range(len(path), 0, -1):
        if reference := external(env, '.'.join([*path[:end], short]), content):
            return reference
    return None


def external(
    env: BuildEnvironment, name: str, content: nodes.TextElement
) -> nodes.reference | None:
    """Return a reference to another project's documentation if its inventory has the name."""
    inventory = InventoryAdapter(env).main_inventory
    for kind in KINDS:
        if item := inventory.get(kind, {}).get(name):
            title = f'(in {item.project_name} v{item.project_version})'
            return nodes.reference('', '', content, refuri=item.uri, internal=False, reftitle=title)
    return None


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect('missing-reference', resolve, priority=900)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
