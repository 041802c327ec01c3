"""Networks, losses, projectors and distillers."""

import mmkdml.compat  # noqa: F401  # prepares the frameworks before they are imported
from mmkdml.models import backbones, distillers, heads, losses, necks, projectors, weighting
from mmkdml.models.backbones import *
from mmkdml.models.distillers import *
from mmkdml.models.heads import *
from mmkdml.models.losses import *
from mmkdml.models.member_tta import MemberTTA
from mmkdml.models.necks import *
from mmkdml.models.projectors import *
from mmkdml.models.tap_presets import suggested_taps
from mmkdml.models.tasks import MultiChannelSegDataPreProcessor
from mmkdml.models.transfers import Transfer, format_transfers, transfers_for
from mmkdml.models.weighting import *
from mmkdml.modes import MODES, STYLES

__all__ = [
    'MODES', 'STYLES', 'MemberTTA', 'MultiChannelSegDataPreProcessor', 'Transfer',
    'format_transfers', 'suggested_taps', 'transfers_for',
]  # fmt: skip
__all__ += backbones.__all__
__all__ += distillers.__all__
__all__ += heads.__all__
__all__ += losses.__all__
__all__ += necks.__all__
__all__ += projectors.__all__
__all__ += weighting.__all__
