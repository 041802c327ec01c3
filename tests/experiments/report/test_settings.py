from mmkdml.experiments.report.settings import collect_settings
from mmkdml.statistics.records import RunRecord


def run(name, mode, text, state='done'):
    return RunRecord(name, 0, mode, '', state, metadata=dict(config_text=text))


def test_one_config_is_complete_and_the_others_are_differences():
    found = collect_settings(
        [
            run('r18', 'baseline', 'a = 3\n'),
            run('ml', 'ml', 'a = 1\nb = 2\nc = 3\n'),
            run('kd', 'kd_on', 'a = 1\nb = 5\nc = 3\n'),
            RunRecord('kdml', 0, 'kdml', 'v1', 'failed'),
        ]
    )
    assert (found.reference.name, found.text) == ('ml', 'a = 1\nb = 2\nc = 3\n')
    assert found.differences['ml', 0] == ''
    assert found.differences['kd', 0] == '@@ -2 +2 @@\n-b = 2\n+b = 5'
    assert set(found.differences) == {('ml', 0), ('kd', 0), ('r18', 0)}


def test_no_finished_run_has_no_settings():
    assert collect_settings([RunRecord('kdml', 0, 'kdml', 'v1', 'failed')]) is None
