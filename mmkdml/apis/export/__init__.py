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

__all__ = [
    'CHECKPOINT',
    'FORMATS',
    'Exported',
    'export',
    'measure_latencies',
    'new_folder',
    'publish',
    'speed_ups',
]
