"""Errors of tools for overlapping or changed split files and for a batch of one image."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'


def overlapping(data_options, part):
    """Return the options with the training images in another part as well."""
    (train,) = [one for one in data_options if one.startswith('train_dataloader.dataset.ann_file')]
    return [*data_options, f'{part}{train.removeprefix("train")}']


@pytest.mark.parametrize('part', ['val', 'test'])
def test_overlapping_parts_raise_before_training(tool, data_options, tmp_path, part):
    with pytest.raises(SystemExit) as stopped:
        tool('train', CONFIG, '--work-dir', tmp_path, options=overlapping(data_options, part))
    assert f'The train and {part} parts share ids: ' in str(stopped.value)
    assert "split_overlap='warn'" in str(stopped.value)
    assert not list(tmp_path.glob('*.pth'))


@pytest.mark.slow
def test_overlapping_parts_raise_before_testing(tool, checkpoint, data_options, tmp_path):
    options = overlapping(data_options, 'test')
    arguments = ['test', CONFIG, checkpoint, '--work-dir', tmp_path, '--out', tmp_path / 'x.json']
    with pytest.raises(SystemExit, match='The train and test parts share ids: '):
        tool(*arguments, options=options)
    assert not (tmp_path / 'x.json').exists()
    tool(*arguments, options=[*options, 'split_overlap=warn'])
    assert (tmp_path / 'x.json').exists()


@pytest.fixture
def splits(data_options, tmp_path):
    """Copy of the split files, and options with its paths."""
    options = dict(one.split('=') for one in data_options)
    folder = tmp_path / 'splits'
    shutil.copytree(Path(options['train_dataloader.dataset.ann_file']).parent, folder)
    for part in ('train', 'val', 'test'):
        options[f'{part}_dataloader.dataset.ann_file'] = folder / f'{part}.csv'
    return folder, [f'{key}={value}' for key, value in options.items()]


@pytest.mark.slow
def test_changed_split_files_raise_until_accepted(tool, checkpoint, splits, capsys):
    folder, options = splits
    text = (folder / 'test.csv').read_text().splitlines(keepends=True)
    (folder / 'test.csv').write_text(''.join(text[:-1]))
    arguments = dict(options=[*options, 'train_cfg.max_epochs=1'])
    run = folder.parent / 'run'
    for command in (['train'], ['test']):
        args = [*command, CONFIG, *([checkpoint] if command == ['test'] else [])]
        with pytest.raises(SystemExit, match=r'test\.csv does not belong .*accept_splits\.py'):
            tool(*args, '--work-dir', run, **arguments)
    capsys.readouterr()
    tool('dataset_converters/accept_splits', folder, experiment=False)
    assert capsys.readouterr().out.splitlines()[3].split()[:2] == ['test', str(len(text) - 2)]
    tool('test', CONFIG, checkpoint, '--work-dir', run, **arguments)


def test_last_batch_of_one_image_raises(tool, data_options, tmp_path):
    """The networks of the demo reduce images of 32 x 32 to maps of 1 x 1."""
    options = [
        *data_options,
        'train_dataloader.batch_size=5',  # of 16 images
        'train_dataloader.dataset.pipeline.2.scale=(32,32)',
        'model.input_size=(32,32)',
    ]
    with pytest.raises(SystemExit) as stopped:
        tool('train', CONFIG, '--work-dir', tmp_path, options=options)
    message = str(stopped.value)
    assert 'The last batch of an epoch (16 images per process, batch_size 5) has one' in message
    assert 'members.teacher.backbone.layer4' in message
    assert 'train_dataloader.drop_last=True' in message
    assert not list(tmp_path.glob('*.pth'))
