"""Export of trained networks and ensembles: plain checkpoints, ONNX and torch.export.

Publishing and plain checkpoints work without the packages of the extra ``export``.
"""

from typing import TYPE_CHECKING

from mmkdml.apis.export.publish import publish  # Not lazy: the module has the same name.
from mmkdml.lazy import lazy_exports

if TYPE_CHECKING:
    from mmkdml.apis.export.formats import (
        CHECKPOINT,
        FORMATS,
        Exported,
        export,
        measure_latencies,
        new_folder,
        speed_ups,
    )
    from mmkdml.apis.export.run import ExportResult, export_run

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        '.formats': [
            *('CHECKPOINT', 'FORMATS', 'Exported', 'export'),
            *('measure_latencies', 'new_folder', 'speed_ups'),
        ],
        '.publish': ['publish'],
        '.run': ['ExportResult', 'export_run'],
    },
)
