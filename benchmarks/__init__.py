"""Benchmarks of training: ``python -m benchmarks {step,methods,...} ...``."""

from benchmarks.end_to_end import format_runs, measure_runs
from benchmarks.loading import format_loading, measure_loading
from benchmarks.offline import OfflineCost, format_offline_cost, measure_offline
from benchmarks.peers import PeerCost, format_peer_costs, measure_peers
from benchmarks.precision import PrecisionCost, format_precisions, measure_precisions
from benchmarks.steps import (
    MethodCost,
    StepCost,
    format_costs,
    format_method_costs,
    measure_methods,
    measure_steps,
)
from benchmarks.students import StudentCost, format_students, measure_students

__all__ = [
    'MethodCost',
    'OfflineCost',
    'PeerCost',
    'PrecisionCost',
    'StepCost',
    'StudentCost',
    'format_costs',
    'format_loading',
    'format_method_costs',
    'format_offline_cost',
    'format_peer_costs',
    'format_precisions',
    'format_runs',
    'format_students',
    'measure_loading',
    'measure_methods',
    'measure_offline',
    'measure_peers',
    'measure_precisions',
    'measure_runs',
    'measure_steps',
    'measure_students',
]
