"""Benchmarks of training, evaluation, loading and start-up: ``python -m benchmarks --help``."""

from mmkdml.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        '.calibration': ['Calibration', 'format_calibration', 'measure_calibrations'],
        '.end_to_end': ['format_runs', 'measure_runs'],
        '.evaluation': ['EvaluationCost', 'format_evaluation', 'measure_evaluation'],
        '.inference': ['InferenceCost', 'format_inference', 'measure_inference'],
        '.loading': ['format_loading', 'format_reading', 'measure_loading', 'measure_reading'],
        '.offline': ['OfflineCost', 'format_offline_cost', 'measure_offline'],
        '.peers': ['PeerCost', 'format_peer_costs', 'measure_peers'],
        '.precision': ['PrecisionCost', 'format_precisions', 'measure_precisions'],
        '.startup': ['StartupCost', 'format_startup', 'measure_startup'],
        '.steps': [
            *('MethodCost', 'format_costs', 'format_method_costs'),
            *('measure_methods', 'measure_steps'),
        ],
        '.students': ['StudentCost', 'format_students', 'measure_students'],
        '.suites': ['CommandCost', 'format_suites', 'measure_suites'],
        '.timing': ['StepCost'],
    },
)
