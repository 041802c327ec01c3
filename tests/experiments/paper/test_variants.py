import pytest

from mmkdml.experiments import comparison_runs, paper_value, paper_weights, variant_runs
from mmkdml.models.transfers import transfers_for
from mmkdml.modes import MODES, STYLES


def test_one_config_for_each_variant():
    runs = variant_runs('configs/{mode}/r50_r18x2_{style}_lgg.py', teacher='r50')
    assert [run['name'] for run in runs] == [f'{m}_{s}' for m in MODES for s in STYLES]
    assert runs[4] == dict(
        name='kd_off_v2', config='configs/kd_off/r50_r18x2_v2_lgg.py', teacher='r50', options={}
    )
    assert {run['teacher'] for run in runs if not run['name'].startswith('kd_off')} == {None}


def test_one_config_for_all_variants():
    (run,) = variant_runs('one.py', 'big', weights_of='Table 14', modes=('ml',))[2:]
    assert run['config'] == 'one.py'
    assert run['options'] == {
        'model.mode': 'ml',
        'model.style': 'v3',
        'model.weights.alpha': (0.2, 0.4),
        'model.weights.beta': None,
        'model.weights.gamma': (0.8, 0.6),
    }


def test_modes_and_styles_select_variants():
    runs = variant_runs('one.py', 'big', modes=('ml', 'kd_off'), styles=('v3',))
    assert [run['name'] for run in runs] == ['ml_v3', 'kd_off_v3']


@pytest.mark.parametrize(
    ('task', 'measure'), [('classification', 'accuracy'), ('segmentation', 'F1')]
)
def test_comparison_runs_are_plain_kd_and_methods_of_table_10(task, measure):
    runs = comparison_runs('{method}.py', task, teacher='big')
    assert runs[0] == dict(name='kd', config='kd.py', teacher='big')
    for run in runs[1:]:
        assert run['config'] == f'{run["name"]}.py'
        assert paper_value(['Table 10'], 'comparison', '', 'single', measure, run['name'])
    assert len(runs) == 8


def test_comparison_runs_of_chosen_methods():
    runs = comparison_runs('{method}.py', 'segmentation', teacher='big', methods=('mgd', 'kd'))
    assert runs == [
        dict(name='mgd', config='mgd.py', teacher='big'),
        dict(name='kd', config='kd.py', teacher='big'),
    ]


def test_unknown_task_raises():
    with pytest.raises(ValueError, match="segmentation, detection, got 'regression'"):
        comparison_runs('{method}.py', 'regression', teacher='big')


def test_detection_has_no_methods_in_the_paper():
    (run,) = comparison_runs('{method}_x.py', 'detection', 'big', methods=('fgd',))
    assert run == dict(name='fgd', config='fgd_x.py', teacher='big')
    with pytest.raises(ValueError, match='methods: expected names for detection'):
        comparison_runs('{method}.py', 'detection', teacher='big')


@pytest.mark.parametrize('table', [f'Table {number}' for number in (3, 4, 8, 9, 14, 15)])
def test_printed_weights_add_up_and_are_valid(table):
    for mode in MODES:
        for style in STYLES:
            weights = paper_weights(table, mode, style)
            for student in (0, 1):
                assert sum(pair[student] for pair in weights.values()) == pytest.approx(1)
            assert transfers_for(mode, style, weights)


def test_table_without_weights_raises():
    with pytest.raises(ValueError, match=r"weights of ml v1: .* Table 3, .* got 'Table 2'"):
        paper_weights('Table 2', 'ml', 'v1')


def test_own_weights_of_each_mode():
    weights = dict(ml=dict(alpha=(0.6, 0.6), gamma=(0.4, 0.4)))
    (run,) = variant_runs('one.py', 'big', weights_of=weights, modes=('ml',), styles=('v2',))
    assert run['options'] == {
        'model.mode': 'ml',
        'model.style': 'v2',
        'model.weights.alpha': (0.6, 0.6),
        'model.weights.beta': None,
        'model.weights.gamma': (0.4, 0.4),
    }
