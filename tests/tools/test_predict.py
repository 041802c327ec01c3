"""Command line of predict: exit codes, one-line errors, and no execution of checkpoint code."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from mmkdml.apis import load_config

ROOT = Path(__file__).parents[2]
SEGMENT, CLASSIFY = (
    ROOT / 'configs' / 'demo' / f'{name}.py' for name in ('kdml_v3_demo', 'kdml_v3_demo_slices')
)


@pytest.fixture(scope='module')
def run(checkpoint):
    """Folder of a run."""
    folder = checkpoint.parent / 'run'
    folder.mkdir()
    load_config(SEGMENT).dump(folder / 'mine.py')
    for name in ('best_x.pth', 'epoch_3.pth'):
        (folder / name).write_bytes(checkpoint.read_bytes())
    return folder


def picture(path, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / 'images'
    path.mkdir()
    for seed, name in enumerate(('a', 'b', 'b_mask')):
        picture(path / f'{name}.png', seed)
    return path


@pytest.fixture
def predict(tool):
    def run(*args, **kwargs):
        tool('predict', *args, experiment=False, **kwargs)

    return run


def test_folder_of_images(predict, run, folder, tmp_path, capsys):
    out = tmp_path / 'out'
    command = (run, folder, '--out', out, '--exclude', '*_mask.*')
    predict(*command, '--members', 'ensemble', '--tta', '--device', 'cpu', '--batch-size', 1)
    assert f'2 cases predicted: {out}' in capsys.readouterr().out
    assert sorted(path.name for path in (out / 'masks' / 'ensemble').iterdir()) == [
        'a.png',
        'b.png',
    ]
    assert (out / 'overlays' / 'b.png').is_file()
    settings = json.loads((out / 'settings.json').read_text())
    assert (settings['augment'], settings['members']) == (True, ['ensemble'])
    with pytest.raises(
        SystemExit, match='predict.py: error: .*has predictions with other settings'
    ):
        predict(*command, '--no-overlays')
    predict(*command, '--no-overlays', '--force')
    assert (out / 'masks' / 'teacher' / 'a.png').is_file()


def test_all_forms_of_run(predict, run, checkpoint, folder, tmp_path):
    image = folder / 'a.png'
    ways = [(run,), (SEGMENT, run), (SEGMENT, checkpoint), (run, run / 'epoch_3.pth')]
    tables = []
    for number, words in enumerate(ways):
        predict(*words, image, folder / 'b.png', '--out', tmp_path / str(number), '--no-overlays')
        tables.append((tmp_path / str(number) / 'predictions.csv').read_text())
    assert len(set(tables)) == 1
    assert len(tables[0].splitlines()) == 1 + 2 * 4


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([SEGMENT, 'a.png'], 'kdml_v3_demo.py is a config: add its checkpoint before a.png'),
        ([SEGMENT, 'a.nii.gz', 'b.png'], 'is a config: add its checkpoint before a.nii.gz'),
        ([SEGMENT, 'a.npy'], 'is a config: add its checkpoint before a.npy'),
        ([SEGMENT, 'x.pth'], 'x.pth is used as the checkpoint: add images after it'),
        (['RUN', 'x.pth'], 'x.pth is used as the checkpoint: add images after it'),
        (['RUN'], 'the following arguments are required: IN'),
    ],
)
def test_missing_arguments(predict, run, checkpoint, words, message, tmp_path, capsys):
    known = {'RUN': run, 'x.pth': checkpoint}
    with pytest.raises(SystemExit, match='^2$'):
        predict(*(known.get(word, word) for word in words), '--out', tmp_path / 'out')
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_cfg_options(predict, run, folder, tmp_path):
    resize = 'test_dataloader.dataset.pipeline.1.scale'
    tables = {}
    for scale in ('(64,64)', '(32,32)', '(64, 64)'):
        out = tmp_path / scale
        predict(run, folder, '--out', out, '--no-overlays', options=[f'{resize}={scale}'])
        tables[scale] = (out / 'predictions.csv').read_text()
    assert tables['(64,64)'] == tables['(64, 64)'] != tables['(32,32)']
    with pytest.raises(
        SystemExit, match=r'has predictions with other settings [^\0]*config_sha256: '
    ):
        predict(
            *(run, folder, '--out', tmp_path / '(32,32)', '--no-overlays'),
            options=[f'{resize}=(64,64)'],
        )


def test_invalid_files_are_reported_after_valid_ones_are_predicted(predict, run, folder, tmp_path):
    Image.new('RGBA', (4, 4)).save(folder / 'four.png')
    Image.new('I;16', (4, 4)).save(folder / 'deep.png')
    Image.new('CMYK', (4, 4)).save(folder / 'ink.jpg')
    Image.new('L', (400, 300)).save(folder / 'huge.png')
    (folder / 'text.png').write_text('no image')
    (folder / 'empty.tif').write_bytes(b'')
    (folder / 'empty.nii.gz').write_bytes(b'')
    (folder / 'empty.dcm').write_bytes(b'')
    (folder / 'cut.png').write_bytes((folder / 'a.png').read_bytes()[:2000])
    (folder / 'gone.png').symlink_to(folder / 'nowhere')
    out = tmp_path / 'out'
    with pytest.raises(SystemExit) as stopped:
        predict(run, folder, '--out', out, '--no-overlays', '--max-megapixels', 0.1)
    message = stopped.value.code  # a text, so that the exit code is 1
    assert message.startswith('predict.py: error: 10 of 13 cases failed')
    lines = message.splitlines()[1:]
    assert len(lines) == 10
    for expected in (
        'four.png: expected an opaque image, got 16 transparent pixels',
        'deep.png: expected an 8-bit grey, RGB or palette image, got 16 bits',
        'ink.jpg: expected an 8-bit grey, RGB or palette image, got mode CMYK',
        'huge.png: 0.1 megapixels are more than 0.1',
        'text.png: unreadable image',
        'empty.tif: unreadable image',
        'empty.nii.gz: unreadable NIfTI',
        'empty.dcm: unreadable DICOM',
        'cut.png: unreadable image',
        'gone.png: unreadable image',
    ):
        assert sum(expected in line for line in lines) == 1, expected
    assert sorted(path.name for path in (out / 'masks' / 'ensemble').iterdir()) == [
        *('a.png', 'b.png', 'b_mask.png')
    ]
    assert pd.read_csv(out / 'predictions.csv').case.nunique() == 3


def test_invalid_run_is_one_line(predict, run, checkpoint, folder, tmp_path, payload):
    (tmp_path / 'empty').mkdir()
    malicious = tmp_path / 'malicious.pth'
    torch.save(dict(state_dict={}, meta=payload(tmp_path / 'made')), malicious)
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / 'text.pth').write_text('no weights')
    out = tmp_path / 'out'
    weights = 'is not a valid checkpoint'
    for words, message in {
        (run, tmp_path / 'empty'): 'No images in .*empty: expected DICOM',
        (run, 'nowhere'): 'No such image or folder: nowhere',
        (run, folder, '--exclude', '*'): r'No images in .*images: .*, except \*',
        (run, folder, '--members', 'tutor'): 'members: expected some of teacher, student_1',
        (run, folder, '--batch-size', '0'): 'batch_size: expected an integer .*, got 0',
        (run, folder, '--window', '3', '1'): 'window: .* got 3.0 and 1.0',
        (run, folder, '--device', 'cuda:99'): "device: .*'cuda:99'",
        (run, folder, '--out', folder / 'a.png'): 'a.png: expected a folder, got a file',
        (run, folder, '--out', folder / 'out'): 'is inside of the input folder',
        (SEGMENT, 'nowhere', folder): 'There is no checkpoint at nowhere',
        (SEGMENT, folder, folder): 'There is no checkpoint at .*images: expected a file, or',
        ('nowhere', folder): 'There is no folder nowhere: expected that of a run, or a config',
        (folder, run): r'expected one config \(\*.py\) in the folder .*images, got none',
        (SEGMENT, malicious, folder): f'malicious.pth {weights}',
        (SEGMENT, tmp_path / 'text.pth', folder): f'text.pth {weights}',
        (SEGMENT, cut, folder): f'cut.pth {weights}',
        (CLASSIFY, checkpoint, folder): 'x.pth does not fit the model of this config',
    }.items():
        with pytest.raises(SystemExit, match=f'^predict.py: error: .*{message}') as stopped:
            predict(*([] if '--out' in words else ['--out', out]), *words)
        assert '\n' not in stopped.value.code
    assert not (tmp_path / 'made').exists()
    assert not out.exists()


def test_full_disk_is_one_line(predict, run, folder, tmp_path):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / '.mmkdml_outputs').symlink_to('/dev/full')
    with pytest.raises(SystemExit, match='predict.py: error: .*No space left on device'):
        predict(run, folder, '--out', tmp_path / 'out')


@pytest.mark.parametrize('package', ['nibabel', 'pydicom'])
def test_missing_optional_packages_are_one_line(
    predict, run, folder, tmp_path, monkeypatch, package
):
    monkeypatch.setitem(sys.modules, package, None)
    name = dict(nibabel='x.nii', pydicom='x.dcm')[package]
    (folder / name).write_bytes(b'x')
    message = (
        rf"1 of 4 cases .*\n.*: {package} is not installed.*: pip install 'mmkdml\[medical\]'$"
    )
    with pytest.raises(SystemExit, match=message):
        predict(run, folder, '--out', tmp_path / 'out', '--no-overlays')
    assert len(list((tmp_path / 'out' / 'masks' / 'ensemble').iterdir())) == 3


def test_volume_with_plane_and_window(predict, run, tmp_path):
    nibabel = pytest.importorskip('nibabel')
    voxels = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), tmp_path / 'v.nii')
    out = tmp_path / 'out'
    options = ('--plane', 'coronal', '--window', '-1', '2.5', '--members', 'student_1')
    predict(run, tmp_path / 'v.nii', '--out', out, *options)
    assert nibabel.load(out / 'masks' / 'student_1' / 'v.nii.gz').shape == (3, 4, 5)
    settings = json.loads((out / 'settings.json').read_text())
    assert (settings['plane'], settings['window']) == ('coronal', [-1, 2.5])
    with Image.open(out / 'overlays' / 'v.png') as overlay:
        assert overlay.height > overlay.width  # four rows of two columns


def test_interrupted_command_continues(predict, run, folder, tmp_path, monkeypatch):
    for number in range(20):
        picture(folder / f'{number:02}.png', number)
    out = tmp_path / 'out'
    command = (run, folder, '--out', out, '--batch-size', 3, '--no-overlays')
    write = Image.Image.save

    def finished():
        return {path: path.stat().st_mtime_ns for path in (out / 'cases').glob('*.json')}

    def stopping(image, path, *args, **options):
        if len(finished()) == 5:
            signal.raise_signal(signal.SIGINT)  # as Ctrl-C does
        write(image, path, *args, **options)

    with monkeypatch.context() as patched:
        patched.setattr(Image.Image, 'save', stopping)
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with pytest.raises(SystemExit, match='130'):
                predict(*command)
        finally:
            signal.signal(signal.SIGINT, before)
    stopped = finished()
    assert len(stopped) == 5
    predict(*command)
    assert len(finished()) == 23
    assert stopped.items() <= finished().items()
    assert pd.read_csv(out / 'predictions.csv').case.nunique() == 23
