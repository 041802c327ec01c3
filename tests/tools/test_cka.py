from pathlib import Path

import pandas as pd
import pytest
import torch
from mmengine.config import Config

from mmkdml.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'
LAYERS = ('--layers', 'backbone.layer?')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Folder of a run with random weights."""
    folder = tmp_path_factory.mktemp('run')
    config = Config.fromfile(CONFIG)
    torch.manual_seed(0)
    torch.save(MODELS.build(config.model).state_dict(), folder / 'best_x_epoch_1.pth')
    config.dump(folder / 'demo.py')
    return folder


def run(tool, options, *args):
    tool('analysis/cka', *args, options=options, experiment=False)


@pytest.mark.slow
def test_two_runs_use_the_same_batches(tool, data_options, folder, tmp_path, capsys):
    (train,) = (option for option in data_options if option.endswith('train.csv'))
    options = [*data_options, train.replace('train_dataloader', 'test_dataloader')]
    args = ('--titles', 'one', 'two', '--batch-size', 5, '--out', tmp_path / 'out', *LAYERS)
    run(tool, options, folder, CONFIG, folder, *args, '--use-config')
    files = [tmp_path / 'out' / name for name in ('cka.png', 'cka.svg', 'cka.csv')]
    assert capsys.readouterr().out.split() == list(map(str, files))
    assert files[0].stat().st_size > 10_000
    assert '<svg' in files[1].read_text()
    table = pd.read_csv(files[2])
    assert table['run'].unique().tolist() == ['one', 'two']
    one, two = (part.drop(columns='run').reset_index(drop=True) for _, part in table.groupby('run'))
    pd.testing.assert_frame_equal(one, two)
    assert len(one) == 3 * 16
    assert set(one['images']) == {15}  # of 16, three batches of 5


def test_one_pair(tool, data_options, folder, tmp_path):
    args = ('--pair', 'student_1', 'student_2', '--pool', '2', '--out', tmp_path, *LAYERS)
    run(tool, data_options, folder, *args)
    table = pd.read_csv(tmp_path / 'cka.csv')
    assert set(table['run']) == {folder.name}
    assert set(table['row']) == {'student_1'}
    assert set(table['images']) == {4}


def test_user_error_is_one_line(tool, data_options, folder, tmp_path, capsys):
    with pytest.raises(SystemExit, match=r'cka.py: error: There is no folder .*nowhere'):
        run(tool, data_options, tmp_path / 'nowhere')
    with pytest.raises(
        SystemExit, match=r'cka.py: error: .*expected members among teacher, .* got x'
    ):
        run(tool, data_options, folder, '--pair', 'teacher', 'x', '--out', tmp_path)
    with pytest.raises(SystemExit):
        run(tool, data_options, folder, folder, '--titles', 'x', 'x')
    assert 'invalid --titles: expected 2' in capsys.readouterr().err
