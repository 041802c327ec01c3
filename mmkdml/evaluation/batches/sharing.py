"""Results that metrics of one batch share, which live as long as the tensors they are made of."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Sequence
from functools import wraps
from typing import Any, NamedTuple, TypeVar

from torch import Tensor

T = TypeVar('T')


class _Entry(NamedTuple):
    sources: tuple[weakref.ref, ...]
    versions: tuple[int, ...]
    result: Any


def shared(function: Callable[..., T]) -> Callable[..., T]:
    """Decorate a function of tensors so that a call with the same tensors is computed once.

    The same means identical objects that were not modified in between (changes of tensors of
    inference mode are not detected). A result is dropped as soon as one of its tensors is freed, so
    that nothing outlives a batch.

    Args:
        function: Function whose first argument is a sequence of tensors, and all others are
            hashable. Its result must neither be one of these tensors nor a view of one, which would
            keep it alive.
    """
    entries: dict[Hashable, _Entry] = {}

    @wraps(function)
    def call(tensors: Sequence[Tensor], *args: Any, **options: Any) -> T:
        key = (tuple(map(id, tensors)), args, tuple(options.items()))
        versions = tuple(0 if one.is_inference() else one._version for one in tensors)
        entry = entries.get(key)
        if (
            entry is not None
            and entry.versions == versions
            # An id can belong to another tensor after the first one is freed.
            and all(ref() is one for ref, one in zip(entry.sources, tensors, strict=True))
        ):
            return entry.result
        result = function(tensors, *args, **options)

        def drop(_: Any) -> None:
            entries.pop(key, None)

        sources = tuple(weakref.ref(one, drop) for one in tensors)
        entries[key] = _Entry(sources, versions, result)
        return result

    call.entries = entries  # type: ignore[attr-defined]  # for tests
    return call
