"""Directives of the reference, generated from the configs and the code.

``{config-list} FOLDER`` lists the configs of a folder, ``{config-types} REGISTRY`` the classes that
mmkdml registers, with their arguments, defaults and descriptions, and ``{api-package} PACKAGE`` the
names that a package exports.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from code_lines import ROOT, find_object
from docutils import nodes
from docutils.statemachine import StringList
from mmengine.config import Config
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.parsing import nested_parse_to_nodes

from mmkdml import registry

GREEK = dict(alpha='α', beta='β', gamma='γ')
PACKAGES = ('models', 'datasets', 'evaluation', 'engine')


class ConfigList(SphinxDirective):
    """Table of the configs in a folder: name, what it trains, data, weights."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        folder = self.arguments[0]
        lines = ['| config | trains | members | data | epochs |', '| --- | --- | --- | --- | --- |']
        for path in sorted((ROOT / 'configs' / folder).glob('*.py')):
            self.env.note_dependency(str(path))
            row = describe_config(Config.fromfile(path, lazy_import=True))
            address = os.path.relpath(path, Path(self.env.doc2path(self.env.docname)).parent)
            lines.append(f'| [`{path.name}`]({address}) | {" | ".join(row)} |')
        return self.parse_text_to_nodes('\n'.join(lines))


def describe_config(config: Config) -> tuple[str, str, str, str]:
    """Return what a config trains, its members, data set and number of epochs."""
    model = config.model
    if 'mode' in model:
        weights = ', '.join(
            f'{GREEK[letter]}\u00a0{"/".join(f"{weight:g}" for weight in pair)}'
            for letter, pair in model.weights.items()
            if pair is not None
        )
        trains = f'{model.style}: {weights}'
        networks = [model.get('teacher'), *model.get('students', ())]
    elif 'members' in model:
        trains = ', '.join(
            f'{type_name(row.get("loss")) or row["knowledge"]} x {row["weight"]:g}'
            for row in model.transfers
        )
        networks = list(model.members.values())
    else:
        trains, networks = 'a single network', [model]
    names = Counter(network_name(network) for network in networks if network is not None)
    members = [f'{number} x {name}' if number > 1 else name for name, number in names.items()]
    dataset = config.train_dataloader.dataset
    while 'dataset' in dataset:
        dataset = dataset.dataset
    epochs = config.train_cfg.get('max_epochs', '')
    data = type_name(dataset).removesuffix('Dataset')
    return trains, ', '.join(members), data, str(epochs)


def type_name(config: Any) -> str:
    """Return the name of the class in a config, or an empty string."""
    kind = config.get('type', '') if isinstance(config, dict) else ''
    return getattr(kind, '__name__', str(kind)).rpartition('.')[2]


def network_name(network: Any) -> str:
    """Return a short name of a network, such as ``ResNet 50``."""
    backbone = network.get('backbone') or network
    return backbone.get('model_name') or f'{type_name(backbone)}{backbone.get("depth", "")}'


class ConfigTypes(SphinxDirective):
    """Definition list of the classes that mmkdml adds to a registry."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        for package in PACKAGES:
            module = importlib.import_module(f'mmkdml.{package}')
            for name in module.__all__:
                getattr(module, name)  # some are registered on first use
        added = getattr(registry, self.arguments[0]).module_dict
        lines: list[str] = []
        for name, kind in sorted(added.items()):
            if kind.__module__.startswith('mmkdml.'):
                self.env.note_dependency(inspect.getsourcefile(kind))
                lines += [*describe_class(name, kind), '']
        # The docstrings are reStructuredText, whatever the page is.

        return nested_parse_to_nodes(self.state, StringList(lines, source=self.arguments[0]))


def describe_class(name: str, kind: type) -> Iterator[str]:
    """Yield the lines of a class in reStructuredText: name, summary and arguments."""
    text = inspect.getdoc(kind) or ''
    yield f'.. py:currentmodule:: {kind.__module__}'
    yield ''
    yield f':class:`mmkdml.{name} <{kind.__module__}.{kind.__qualname__}>`'
    yield f'   {" ".join(text.partition(chr(10) * 2)[0].split())}'
    yield ''
    described = argument_descriptions(text)
    for parameter in inspect.signature(kind).parameters.values():
        if description := described.get(parameter.name):
            default = parameter.default
            shown = '' if default is parameter.empty else f' = {shown_default(default)}'
            yield f'   ``{parameter.name}{shown}``'
            yield f'      {description}'
    yield ''


def shown_default(value: Any) -> str:
    """Return a default as in a config."""
    return value.__name__ if inspect.isclass(value) or inspect.isfunction(value) else repr(value)


def argument_descriptions(text: str) -> dict[str, str]:
    """Return the descriptions in the ``Args:`` section of a Google docstring, each in one line."""
    section = re.search(r'^Args:\n((?:[ ]+.*\n|\n)*)', f'{text}\n', re.MULTILINE)
    entries = re.findall(
        r'^ {4}\*{0,2}(\w+)(?: \([^)]*\))?: (.*(?:\n(?: {8}.*|$))*)',
        section[1] if section else '', re.MULTILINE,
    )  # fmt: skip
    return {name: ' '.join(description.split()) for name, description in entries}


class Package(SphinxDirective):
    """Table of the names that a package exports, followed by their documentation."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        known = (name.rpartition('.') for name in self.config.mmkdml_names.values())
        names = sorted(name for owner, _, name in known if owner == package)
        values = {name: find_object(f'{package}.{name}') for name in names}
        lines = [f'.. automodule:: {package}', '   :no-members:', '', '.. list-table::', '']
        for name, value in values.items():
            summary = (inspect.getdoc(value) or '').partition('\n')[0]
            lines += [f'   * - :obj:`{name}`', f'     - {summary}']
        for name, value in values.items():
            kind = 'class' if inspect.isclass(value) else 'function'
            lines += ['', f'.. auto{kind}:: {name}']
        return nested_parse_to_nodes(self.state, StringList(lines, source=package))


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive('config-list', ConfigList)
    app.add_directive('config-types', ConfigTypes)
    app.add_directive('api-package', Package)
    return dict(parallel_read_safe=True, parallel_write_safe=True)
