import pytest

from mmkdml.apis.summary.confusion import read_confusion


def write(run, text):
    (run / 'confusion').mkdir(exist_ok=True)
    (run / 'confusion' / 'confusion.csv').write_text(text)


def test_matrices_have_shares_of_the_true_class(tmp_path):
    lines = ['member,truth,predicted,count', 'teacher,nv,nv,1', 'ensemble,nv,nv,6']
    lines += ['ensemble,mel,nv,2', 'ensemble,nv,mel,2', 'ensemble,mel,mel,0', 'ensemble,NA,NA,0']
    write(tmp_path, '\n'.join(lines))
    ensemble, teacher = read_confusion(tmp_path)
    assert (ensemble.member, ensemble.classes) == ('ensemble', ['nv', 'mel', 'NA'])
    assert ensemble.rows[0] == ('nv', [(6, 0.75), (2, 0.25), (0, 0)])
    assert ensemble.rows[1] == ('mel', [(2, 1), (0, 0), (0, 0)])
    assert ensemble.rows[2] == ('NA', [(0, 0), (0, 0), (0, 0)])
    assert teacher.rows == [('nv', [(1, 1)])]


@pytest.mark.parametrize('text', ['', 'member,truth\n', 'member,truth,predicted,count\na,b,c,x\n'])
def test_damaged_files_are_skipped(tmp_path, text):
    assert read_confusion(tmp_path) == []
    write(tmp_path, text)
    assert read_confusion(tmp_path) == []


def test_only_classes_of_the_ensemble_are_shown(tmp_path):
    lines = ['member,truth,predicted,count']
    for name in ('teacher: Mass', 'teacher: a: b', 'ensemble: Mass', 'ensemble: a: b'):
        lines += [f'{name},absent,absent,3', f'{name},present,absent,1']
    write(tmp_path, '\n'.join(lines))
    mass, other = read_confusion(tmp_path)
    assert (mass.member, other.member) == ('ensemble: Mass', 'ensemble: a: b')
    assert mass.classes == ['absent', 'present']
