"""Safe loading of YAML: plain data only, with a limit on the expansion of aliases."""

from __future__ import annotations

from typing import Any

import yaml  # type: ignore[import-untyped]

# Largest number of values in a file, counting the target of an alias at each of its uses.
_MAX_VALUES = 1_000_000


class SafeYamlLoader(yaml.SafeLoader):
    """Safe loader that accepts the tuples that mmengine writes.

    Raises:
        yaml.YAMLError: If a tag names a Python object, or if aliases of aliases expand a few lines
            to more than a million values.
    """

    def get_single_node(self) -> yaml.Node | None:
        """Return the root node of the document; None if it is empty."""
        node = super().get_single_node()
        if _count_values(node, {}) > _MAX_VALUES:
            raise yaml.YAMLError(f'its aliases expand to more than {_MAX_VALUES:,} values')
        return node


SafeYamlLoader.add_constructor(
    'tag:yaml.org,2002:python/tuple',
    lambda loader, node: tuple(loader.construct_sequence(node, deep=True)),
)


def _count_values(node: Any, known: dict[int, int]) -> int:
    """Count a node and its descendants; a node that contains itself counts once."""
    if id(node) not in known:
        known[id(node)] = 1
        children = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = isinstance(node, yaml.MappingNode)
        parts = (part for child in children for part in (child if pairs else (child,)))
        known[id(node)] += sum(_count_values(part, known) for part in parts)
    return known[id(node)]
