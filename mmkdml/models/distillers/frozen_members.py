"""Members that nothing trains."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class FrozenMembers(dict[str, nn.Module]):
    """Frozen members by name, which a copy of their classroom has in common with it.

    So an average of the weights (mmengine's ``EMAHook``) costs no second teacher. They are copied
    when one of the classrooms goes to another device or dtype.
    """

    shared = False

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenMembers:
        """The same members."""
        twin = FrozenMembers(self)
        self.shared = twin.shared = True
        return twin

    def apply(self, fn: Callable[[Tensor], Tensor], *args: Any, **kwargs: Any) -> None:
        """Changes all parameters and buffers, as ``nn.Module._apply`` does.

        Args:
            fn: From a tensor to what takes its place.
            args: See ``nn.Module._apply``.
            kwargs: The same.
        """
        for name, member in self.items():
            self[name] = (copy.deepcopy(member) if self.shared else member)._apply(
                fn, *args, **kwargs
            )
        self.shared = False
