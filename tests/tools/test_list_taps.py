from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'


def test_taps_at_given_input_size(tool, capsys):
    tool(
        'list_taps',
        CONFIG,
        '--member',
        'student_2',
        '--depth',
        '2',
        '--match',
        '*conv*',
        options=['model.input_size=[32,96]'],
        experiment=False,
    )
    lines = [
        [cell.strip() for cell in line.split('|')[2:5]]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith('|')
    ]
    assert lines == [
        ['tap', 'module', 'output'],
        ['backbone.conv1', 'Conv2d', '1x12x16x48'],
        ['decode_head.conv_seg', 'Conv2d', '1x1x32x96'],
    ]


def test_unknown_member_is_one_line(tool):
    with pytest.raises(SystemExit, match="list_taps.py: error: .*'student_3'"):
        tool('list_taps', CONFIG, '--member', 'student_3', experiment=False)


def test_suggested_taps_of_method(tool, capsys):
    tool('list_taps', CONFIG, '--method', 'dsd', '--member', 'teacher', experiment=False)
    text = capsys.readouterr().out
    assert 'Suggested taps for dsd' in text
    assert text.count(' -> ') == 2
    taps = "['decode_head.blocks.2', 'decode_head.blocks.4', 'decode_head.conv_seg']"
    assert text.splitlines()[-2:] == [f'source_tap={taps},', f'learner_tap={taps},']


def test_method_for_another_task_is_one_line(tool):
    with pytest.raises(
        SystemExit, match="list_taps.py: error: .*'simkd', which is only for classif"
    ):
        tool('list_taps', CONFIG, '--method', 'simkd', experiment=False)


@pytest.mark.parametrize('option', [('--depth', '1'), ('--match', '*')])
def test_method_excludes_other_filters(tool, capsys, option):
    with pytest.raises(SystemExit):
        tool('list_taps', CONFIG, '--method', 'at', *option, experiment=False)
    assert 'omit --depth and --match' in capsys.readouterr().err
