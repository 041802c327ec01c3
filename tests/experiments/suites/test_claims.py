import pytest

from mmkdml.experiments import load_suite
from mmkdml.experiments.suites.claims import parse_claims
from mmkdml.statistics.records import SuiteClaim

RUNS, MEASURES = ['kdml_v3', 'kdml_v1', 'hot/ml_v1'], ['IoU', 'F1']


def parse(*claims):
    return parse_claims('small.py', list(claims), RUNS, MEASURES)


def test_entries_are_runs_with_or_without_a_member():
    first, second = parse(
        dict(entry='kdml_v3', competitors=['kdml_v1', 'hot/ml_v1'], primary=True, text='Mixed'),
        dict(entry='kdml_v3:student_1', competitors=('hot/ml_v1:ensemble',), measure='IoU'),
    )
    competitors = (('kdml_v1', ''), ('hot/ml_v1', ''))
    assert first == SuiteClaim(('kdml_v3', ''), competitors, '', 'Mixed', True)
    assert second == SuiteClaim(('kdml_v3', 'student_1'), (('hot/ml_v1', 'ensemble'),), 'IoU')
    assert parse() == ()


@pytest.mark.parametrize(
    ('claim', 'message'),
    [
        ('kdml_v3', r'claims.0 in small.py.*dict\(entry=.*got .kdml_v3'),
        (dict(entry='kdml_v3'), r'claims.0.competitors'),
        (dict(entry='kdml_v3', competitors=[]), r'claims.0.competitors.*got \[\]'),
        (dict(entry='kdml_v3', competitors='kdml_v1'), r'claims.0.competitors.*got .kdml_v1'),
        (dict(entry=3, competitors=['kdml_v1']), r'claims.0.entry.*got 3'),
        (dict(entry='kdml_v3', competitors=['kdml_v1'], primary='no'), r'primary.*got .no'),
        (dict(entry='kdml_v3', competitors=['kdml_v1'], alpha=1), r'claims.0.alpha'),
        (dict(entry='kdml_v2', competitors=['kdml_v1']), r'run of claims.0.*kdml_v1.*got .kdml_v2'),
        (dict(entry='kdml_v3', competitors=['kdml_v1'], measure='AP'), r'IoU, F1.*got .AP'),
        (dict(entry='kdml_v3', competitors=['kdml_v3']), r'each run and member once'),
    ],
)
def test_invalid_claims_raise(claim, message):
    with pytest.raises(ValueError, match=message):
        parse(claim)


def test_a_claim_is_stated_once():
    claim = dict(entry='kdml_v3', competitors=['kdml_v1'])
    with pytest.raises(ValueError, match=r'claims.1 in small.py: expected each claim once'):
        parse(claim, dict(claim, primary=True))


@pytest.mark.parametrize('name', ['small.py', 'small.yaml'])
def test_suite_file_with_claims(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for config in ('a.py', 'b.py'):
        (tmp_path / config).write_text('')
    text = (
        'measures = ["IoU"]\nseeds = [0]\nruns = [{"config": "a.py"}, {"config": "b.py"}]\n'
        'claims = [{"entry": "a", "competitors": ["b"], "primary": True}]\n'
    )
    if name.endswith('yaml'):
        text = text.replace(' =', ':').replace('True', 'true')
    (tmp_path / name).write_text(text)
    assert load_suite(name).claims == (SuiteClaim(('a', ''), (('b', ''),), primary=True),)
