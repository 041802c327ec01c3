from itertools import combinations

from mmkdml.experiments import RunSpec
from mmkdml.experiments.suites.fold_runs import fold_runs

RUNS = [RunSpec('big', 0, 'b.py'), RunSpec('kd', 0, 'k.py', {}, 'big'), RunSpec('ml', 0, 'm.py')]


def test_every_run_is_executed_in_each_fold_with_the_teacher_of_the_fold():
    assert fold_runs(RUNS, 2, ()) == [
        RunSpec('big/fold_0', 0, 'b.py', fold=0),
        RunSpec('kd/fold_0', 0, 'k.py', {}, 'big/fold_0', fold=0),
        RunSpec('ml/fold_0', 0, 'm.py', fold=0),
        RunSpec('big/fold_1', 0, 'b.py', fold=1),
        RunSpec('kd/fold_1', 0, 'k.py', {}, 'big/fold_1', fold=1),
        RunSpec('ml/fold_1', 0, 'm.py', fold=1),
    ]


def test_teachers_have_seen_neither_the_images_they_teach_nor_the_test_images():
    runs = {run.name: run for run in fold_runs(RUNS, 5, ['kd'])}
    copies = [run for run in runs.values() if run.without is not None]
    assert [(run.fold, run.without) for run in copies] == list(combinations(range(5), 2))
    assert list(runs)[:10] == [run.name for run in copies]
    for fold in range(5):
        student = runs[f'kd/fold_{fold}']
        assert (student.teacher, student.fold_teachers[fold]) == (None, None)
        assert len(student.fold_teachers) == 5
        assert student.run == 'kd'
        for taught, name in enumerate(student.fold_teachers):
            if name is not None:
                teacher = runs[name]
                assert {teacher.fold, teacher.without} == {fold, taught}
                assert (teacher.run, teacher.config) == ('big', 'b.py')
    assert runs['ml/fold_3'].teachers == ()
    assert runs['big/fold_3'].without is None
