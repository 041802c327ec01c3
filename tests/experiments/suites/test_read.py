import json

import pytest

from mmkdml.experiments import RunSpec, Suite, SuiteStore, read_suite
from mmkdml.experiments.suites.fold_runs import fold_runs
from mmkdml.experiments.suites.serialization import deserialize_result, serialize_result
from mmkdml.statistics.counts import seed_scores
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING, Measurement

MODELS = {
    'plain': dict(type='EncoderDecoder'),
    'kdml': dict(type='DiversifiedKDMLDistiller', mode='kdml', style='v3'),
    'own': dict(type='KnowledgeDistiller', members={}),
}


@pytest.fixture
def suite_and_store(tmp_path):
    runs = tuple(RunSpec(name, seed, 'c') for seed in (1, 0) for name in MODELS)
    suite = Suite('s', 's.py', 'Title', ('IoU',), ('Table 4',), runs, tmp_path)
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, {name: json.dumps(dict(model=model)) for name, model in MODELS.items()})
    return suite, store


def test_records_of_runs_in_every_state(suite_and_store, script):
    suite, store = suite_and_store
    states = {(run.name, run.seed): run for run in store.states()}
    result = script.with_name('result.json.gz').read_bytes()
    for key in (('kdml', 1), ('own', 0)):
        store.claim(states[key], 'w', 0.0)
    store.finish(states['kdml', 1], 'w', result, 3.0)
    store.fail(states['own', 0], 'w', 'no')
    record = read_suite(suite, store)
    assert (record.name, record.title, record.paper_tables) == ('s', 'Title', ('Table 4',))
    kinds = [(run.name, run.seed, run.mode, run.style) for run in record.runs]
    assert kinds == [
        ('plain', 1, 'baseline', ''),
        ('plain', 0, 'baseline', ''),
        ('kdml', 1, 'kdml', 'v3'),
        ('kdml', 0, 'kdml', 'v3'),
        ('own', 1, 'comparison', ''),
        ('own', 0, 'comparison', ''),
    ]
    done, failed = record.runs[2], record.runs[5]
    assert (done.state, done.metadata, len(done.curves)) == (DONE, dict(seconds=1.0), 1)
    assert done.measured['last'].cases.tp.tolist() == [8]
    assert (failed.state, failed.error, dict(failed.measured)) == (FAILED, 'no', {})
    assert (record.runs[0].state, record.runs[0].curves.empty) == (WAITING, True)


def test_pictures_of_runs_and_of_the_suite(suite_and_store):
    suite, store = suite_and_store
    pictures = (
        'analysis/cka/cka.png', 'kdml/seed_1/panels/panels.png', 'kdml/seed_1/panels/01_x.png',
        'kdml/seed_1/calibration/reliability.png', 'kdml/seed_1/analysis/hard.png',
    )  # fmt: skip
    for name in pictures:
        (suite.work_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (suite.work_dir / name).touch()
    record = read_suite(suite, store)
    assert record.pictures == {'analysis/cka/cka.png': suite.work_dir / pictures[0]}
    run = record.runs[2]
    assert list(run.pictures) == [
        'panels/01_x.png', 'panels/panels.png', 'calibration/reliability.png', 'analysis/hard.png'
    ]  # fmt: skip
    assert all(path.is_file() for path in run.pictures.values())
    assert not record.runs[3].pictures


def test_runs_of_other_suites_in_the_database_are_ignored(suite_and_store):
    suite, store = suite_and_store
    small = Suite('s', 's.py', 'T', ('IoU',), (), suite.runs[:1], suite.work_dir)
    assert [run.name for run in read_suite(small, store).runs] == ['plain']


def test_damaged_result_raises(suite_and_store):
    suite, store = suite_and_store
    run = store.states()[0]
    store.claim(run, 'w', 0.0)
    store.finish(run, 'w', b'half', 1.0)
    with pytest.raises(ValueError, match=r'suite\.db.* plain, seed 1'):
        read_suite(suite, store)


def test_damaged_settings_raise(tmp_path):
    suite = Suite('s', 's.py', 'T', ('IoU',), (), (RunSpec('a', 0, 'c'),), tmp_path)
    store = SuiteStore.in_folder(tmp_path)
    store.register(suite.runs, {'a': '{"model": 3}'})
    with pytest.raises(ValueError, match=r'suite\.db.*settings of a '):
        read_suite(suite, store)


def test_folds_are_pooled_and_other_teachers_left_out(tmp_path, script):
    big = RunSpec('big', 0, 'c')
    runs = tuple(fold_runs([big, RunSpec('kd', 0, 'c', {}, 'big')], 3, ['kd']))
    suite = Suite('s', 's.py', 'Title', ('IoU',), (), runs, tmp_path, 3)
    store = SuiteStore.in_folder(tmp_path)
    store.register(runs, dict.fromkeys((run.name for run in runs), '{"model": {}}'))
    content = script.with_name('result.json.gz').read_bytes()
    measured, curves, metadata = deserialize_result(content)
    for number, state in enumerate(store.states()):
        if state.name == 'kd/fold_2':
            continue
        own = {}
        for name, one in measured.items():
            own[name] = Measurement(one.metrics, one.cases.assign(id=str(number)))
        store.claim(state, 'w', 0.0)
        store.finish(state, 'w', serialize_result(own, curves, metadata), 3.0)
    record = read_suite(suite, store)
    assert [(run.name, run.state, run.folds) for run in record.runs] == [
        ('big', DONE, 3), ('kd', RUNNING, 3)
    ]  # fmt: skip
    assert len(record.runs[0].measured['best'].cases) == 3
    assert record.runs[1].error == '2 of 3 folds done'
    each = read_suite(suite, store, pool=False)
    assert [run.name for run in each.runs] == [run.name for run in runs]
    assert len(seed_scores(each)) > 0
