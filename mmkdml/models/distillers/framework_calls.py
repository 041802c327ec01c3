"""Clear errors where a tool of the frameworks expects one network and gets a classroom."""

from __future__ import annotations

from typing import Any

from mmengine.model import BaseModel

from mmkdml.commands import tool_command

# Attributes of the frameworks' networks that their tools and functions read.
_PARTS = (
    'backbone', 'neck', 'head', 'decode_head', 'extract_feat', 'encode_decode', 'out_channels',
    'num_classes',
)  # fmt: skip
# Arguments that mmseg's init_model sets.
_ARGUMENTS = ('pretrained', 'train_cfg')


def _export() -> str:
    return f'{tool_command("export")} RUN --what student_1 --format checkpoint'


class FrameworkCalls(BaseModel):
    """Base of classrooms: handles calls of the frameworks that are made for one network.

    Functions such as ``mmseg.apis.init_model`` and tools such as ``get_flops`` and ``vis_cam`` need
    the parts of one network. For a classroom they would fail with an unrelated message, or load no
    weights and continue.
    """

    members: Any  # ModuleDict of the trained members by name

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Refuse the arguments of mmseg's ``init_model``.

        Raises:
            TypeError: If there is such an argument.
        """
        found = [name for name in _ARGUMENTS if name in kwargs]
        if found:
            raise TypeError(
                f'Invalid argument {found[0]} of {cls.__name__}: expected the config of one '
                'network, as for init_model of mmseg, got a classroom. To predict with all '
                f'members, use mmkdml.apis.load(RUN). Or export one of them: {_export()}'
            )
        return super().__new__(cls)

    def __getattr__(self, name: str) -> Any:
        """Name the members if a part of one network is requested.

        Raises:
            AttributeError: If there is no such attribute.
        """
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name not in _PARTS:
                raise
        members = ', '.join(self.members) if 'members' in self._modules else 'its members'
        raise AttributeError(
            f'{type(self).__name__} has no {name}: expected one network, got a classroom of '
            f"{members}. Use members['NAME'].{name}, or export a member for tools of the "
            f'frameworks: {_export()}. Layer-wise learning rates: '
            'optim_wrapper.constructor=mmkdml.MemberOptimWrapperConstructor'
        )

    def get_layer_depth(self, param_name: str) -> tuple[int, int]:
        """Return the depth of a parameter in its member, for layer-wise learning rates.

        mmpretrain's ``LearningRateDecayOptimWrapperConstructor`` calls this method. Parameters of
        projectors and losses get the full learning rate.

        Args:
            param_name: Name in the classroom, such as ``members.student_1.backbone.cls_token``.

        Returns:
            Depth in [0, D) and number D of depths, as of mmpretrain's networks.

        Raises:
            NotImplementedError: If the member has no depths.
        """
        first, _, rest = param_name.partition('.')
        if first != 'members':
            return 1, 2
        name, _, rest = rest.partition('.')
        member = self.members[name]
        problem: Any = f'{type(member).__name__} has no get_layer_depth'
        if hasattr(member, 'get_layer_depth'):
            try:
                return member.get_layer_depth(rest)
            except NotImplementedError as error:
                problem = error
        raise NotImplementedError(
            f'Invalid optim_wrapper.constructor for {name}: expected a network with layer depths, '
            f'got another ({problem}). Choose a constructor for each member: '
            "dict(constructor='mmkdml.MemberOptimWrapperConstructor', members=dict(...))"
        )

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Refuse weights of another network, for which mmengine would only log a warning."""
        own = f'{prefix}members.'
        if state_dict and self.members and not any(key.startswith(own) for key in state_dict):
            some = ', '.join(list(state_dict)[:3])
            raise ValueError(
                f'Invalid checkpoint for {type(self).__name__}: expected weights of its members '
                f'({own}{next(iter(self.members))}...), got those of another network ({some}, '
                '...). Use the checkpoint of this classroom, or the config of that network'
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
