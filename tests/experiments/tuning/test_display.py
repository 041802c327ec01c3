import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from mmkdml.experiments.tuning.display import TunerDisplay
from mmkdml.experiments.tuning.results import ERROR
from mmkdml.experiments.tuning.space import SearchSpace
from mmkdml.experiments.tuning.study import STARTED, SURPLUS

PARAMS = {'students.alpha_quantile': 0.75}
TRIALS = (
    (TrialState.FAIL, None, {ERROR: 'ValueError: nan\nmore'}),
    (TrialState.COMPLETE, 41.0, {}),
    (TrialState.PRUNED, None, {}),
    (TrialState.COMPLETE, 40.0, {}),
    (TrialState.COMPLETE, 90.0, {SURPLUS: True}),  # of a worker beyond the total
)


def test_a_line_per_trial_with_the_best_so_far(tmp_path):
    study = optuna.create_study(direction='maximize')
    lines = []
    space = SearchSpace(('alpha', 'beta'), tied=True)
    display = TunerDisplay('weights', 4, 'ensemble/IoU', space, tmp_path, lines.append)
    with display.start(study) as bar:
        for number, (state, value, attributes) in enumerate(TRIALS):
            study.add_trial(
                create_trial(
                    state=state,
                    value=value,
                    params=PARAMS,
                    distributions=dict.fromkeys(PARAMS, FloatDistribution(0, 1)),
                    user_attrs={STARTED: number, **attributes},
                )
            )
            display.finished(study, study.trials[-1])
    assert bar.done == 3  # without the failed and the surplus trial
    assert len(lines) == 5
    assert 'weights' in lines[0]
    assert all(text in lines[0] for text in ('ensemble/IoU', '4 trials', str(tmp_path)))
    failed, first, pruned, second = lines[1:]
    assert 'failed: ValueError: nan (log' in failed
    assert 'no trial is complete' in failed
    assert 'more' not in failed
    for line, text in ((first, '41.00'), (pruned, 'pruned'), (second, '40.00')):
        assert line.startswith('trial ')
        assert text in line
        assert 'best 41.00 (trial 1)' in line
        assert 'alpha' in line
    assert '3 of 4 trials' in second
