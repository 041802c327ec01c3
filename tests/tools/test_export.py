"""Command line of the export: output, files, errors in one line, and no code executed."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkdml.apis import export_run

CONFIGS = Path(__file__).parents[2] / 'configs' / 'demo'
SEGMENT, CLASSIFY = CONFIGS / 'kdml_v3_demo.py', CONFIGS / 'kdml_v3_demo_slices.py'


@pytest.fixture
def export(tool):
    def run(*args, **kwargs):
        tool('export', *args, experiment=False, **kwargs)

    return run


@pytest.mark.slow
def test_checkpoint_with_its_card(export, checkpoint, short, tmp_path, capsys):
    out = tmp_path / 'out'
    args = (SEGMENT, checkpoint, '--what', 'student_1', '--format', 'checkpoint', '--out', out)
    export(*args, options=short)
    printed = capsys.readouterr().out
    assert 'Largest difference from PyTorch on 4 images: 0\n' in printed
    assert 'ms per image, ' in printed
    assert ' times as fast as the teacher in PyTorch\n' in printed
    assert 'Requires mmkdml.StemResNet and mmkdml.UNetHead\n' in printed
    name = 'kdml_v3_demo-student_1'
    endings = ('json', 'md', 'pth', 'py', 'safetensors')
    assert sorted(path.name for path in out.iterdir()) == [f'{name}.{end}' for end in endings]
    card = json.loads((out / f'{name}.json').read_text())
    measures = [one['measure'] for one in card['scores']]
    assert measures == ['IoU', 'F1', 'Dice', 'case_IoU']
    with pytest.raises(SystemExit, match='export.py: error: .*out already exists: expected a new'):
        export(*args, options=short)


def test_check_on_a_folder_of_images(export, checkpoint, tmp_path, capsys):
    images, out = tmp_path / 'images', tmp_path / 'out'
    images.mkdir()
    for number in range(3):
        Image.fromarray(np.full((50, 40, 3), 60 * number, np.uint8)).save(images / f'{number}.png')
    args = ('--what', 'student_2', '--format', 'checkpoint', '--out', out, '--images', images)
    export(SEGMENT, checkpoint, *args, '--check', 2, '--licence', 'CC BY 4.0')
    assert 'Largest difference from PyTorch on 2 images: 0\n' in capsys.readouterr().out
    text = (out / 'kdml_v3_demo-student_2.md').read_text()
    assert 'Not measured.' in text
    assert '## Licence\n\nCC BY 4.0\n' in text
    result = export_run(
        *(SEGMENT, tmp_path / 'again', checkpoint),
        **dict(what='student_2', form='checkpoint', images=images, check=2, licence='CC BY 4.0'),
    )
    written = json.loads((out / 'kdml_v3_demo-student_2.json').read_text())
    assert result.card == json.loads(
        (tmp_path / 'again' / 'kdml_v3_demo-student_2.json').read_text()
    )
    assert result.scores is None
    assert result.exported.agreement.images == 2
    for key in ('latency_ms', 'speed_ups'):  # the rest is equal, with the hashes of all files
        assert written.pop(key).keys() == result.card.pop(key).keys()
    assert written == result.card


def test_invalid_arguments_exit_with_one_line(export, checkpoint, short, tmp_path, payload):
    malicious, cut, empty = (tmp_path / name for name in ('malicious.pth', 'cut.pth', 'empty'))
    torch.save(dict(state_dict={}, meta=payload(tmp_path / 'made')), malicious)
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    empty.mkdir()
    refused = 'is not a valid checkpoint'
    for args, message in {
        (SEGMENT, malicious): f'malicious.pth {refused}: Unsupported global',
        (SEGMENT, cut): f'cut.pth {refused}',
        (SEGMENT, 'nowhere'): 'There is no checkpoint at nowhere',
        (CLASSIFY, checkpoint): 'x.pth does not fit the student_1',
        (SEGMENT, checkpoint, '--what', 'pupil'): "Nothing named 'pupil' .*student_2, ensemble",
        (SEGMENT, checkpoint, '--format', 'checkpoint'): 'Ensembles are not supported',
        (SEGMENT, checkpoint, '--images', empty): 'No images in .*empty',
        (empty,): r'expected one config \(\*.py\) in the folder .*empty, got none',
        ('nowhere',): 'There is no folder nowhere',
        (SEGMENT,): 'a config requires a checkpoint',
    }.items():
        with pytest.raises(SystemExit, match=f'export.py: error: .*{message}') as stopped:
            export(*args, '--out', tmp_path / 'out', options=short)
        assert 'weights_only' not in stopped.value.code  # torch suggests to disable the check
    assert not (tmp_path / 'made').exists()
    assert not (tmp_path / 'out').exists()
    assert not list(tmp_path.glob('.out*'))


def test_invalid_options_exit_with_code_2(export, checkpoint, tmp_path, capsys):
    for options, message in (
        (('--int8', '--images', tmp_path), '--int8 is measured on the test set: remove --images'),
        (('--check', 0), '--check must be at least 1, got 0'),
        (('--format', 'tf'), "invalid choice: 'tf'"),
    ):
        with pytest.raises(SystemExit, match='2'):
            export(SEGMENT, checkpoint, '--out', tmp_path / 'out', *options)
        assert message in capsys.readouterr().err
