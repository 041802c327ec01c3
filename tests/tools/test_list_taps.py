from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'


def test_taps_at_another_input_size(tool, capsys):
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


def test_an_unknown_member_is_told_in_one_line(tool):
    with pytest.raises(SystemExit, match="list_taps.py: error: There is no member 'student_3'"):
        tool('list_taps', CONFIG, '--member', 'student_3', experiment=False)
