"""Export of trained networks and ensembles: plain checkpoints, ONNX and torch.export."""

from mmkdml.apis.export.formats import (
    CHECKPOINT,
    FORMATS,
    Exported,
    export,
    measure_latencies,
    new_folder,
    speed_ups,
)
from mmkdml.apis.export.publish import publish
from mmkdml.apis.export.run import ExportResult, export_run

__all__ = [
    'CHECKPOINT',
    'FORMATS',
    'ExportResult',
    'Exported',
    'export',
    'export_run',
    'measure_latencies',
    'new_folder',
    'publish',
    'speed_ups',
]
