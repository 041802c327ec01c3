from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / 'configs'


def test_classroom_of_demo(tool, capsys):
    tool(
        'print_classroom',
        CONFIGS / 'demo' / 'kdml_v3_demo.py',
        options=['model.weights.beta=[0.25,0.125]'],
        experiment=False,
    )
    text = capsys.readouterr().out
    assert 'for an image of 64x64' in text
    (row,) = [line for line in text.splitlines() if '| teacher -> student_2' in line]
    assert [cell.strip() for cell in row.split('|')[2:5]] == [
        'predictions',
        '0.125',
        'PredictionKLLoss',
    ]
    assert 'Compared with teacher: ' in text


@pytest.mark.parametrize(
    ('path', 'words'),
    [
        ('ml/r50_r18x2_v3_lgg.py', 'No teacher to compare with'),
        ('kd_off/r50_r18x2_v3_lgg.py', 'work_dirs/baselines/r50_lgg (MISSING: train it first)'),
    ],
)
def test_configs_of_paper(tool, capsys, monkeypatch, tmp_path, path, words):
    monkeypatch.chdir(tmp_path)
    tool('print_classroom', CONFIGS / path, experiment=False)
    out, err = capsys.readouterr()
    assert words in out
    assert err == ''
    assert list(tmp_path.iterdir()) == []


def test_invalid_transfer_is_one_line(tool):
    with pytest.raises(SystemExit, match='print_classroom.py: error: alpha must be finite and at'):
        tool(
            'print_classroom',
            CONFIGS / 'demo' / 'kdml_v3_demo.py',
            options=['model.weights.alpha=[-1,1]'],
            experiment=False,
        )
