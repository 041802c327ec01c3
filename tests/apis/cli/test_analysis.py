import argparse
import shutil
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml.apis.cli.analysis import analysis_parser, default_titles, named_runs, open_run
from mmkdml.registry import MODELS

CONFIG = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo.py'


@pytest.fixture(scope='module')
def folder(slices, tmp_path_factory):
    """Run with random weights and 16 slices to test on."""
    source, train = slices
    config = Config.fromfile(CONFIG)
    config.model.input_size = (32, 32)
    for part, split in (('test', train), ('val', train.with_name('val.csv'))):
        files = dict(data_root=str(source), ann_file=str(split))
        config[f'{part}_dataloader'].dataset.update(files)
    folder = tmp_path_factory.mktemp('run') / 'kd' / 'seed_0'
    folder.mkdir(parents=True)
    torch.save(MODELS.build(config.model).state_dict(), folder / 'best_x_epoch_1.pth')
    config.dump(folder / 'demo.py')
    return folder


def ids(loader):
    return [sample.id for data in loader for sample in data['data_samples']]


def test_arguments():
    parser = analysis_parser('Look at runs.', name='pictures')
    args = parser.parse_args(['a', 'b', '--cfg-options', 'x.y=3'])
    assert args == argparse.Namespace(
        runs=['a', 'b'],
        titles=None,
        out=None,
        part='test',
        format=['png'],
        columns=None,
        use_config=False,
        cfg_options={'x.y': 3},
        name='pictures',
    )
    args = parser.parse_args(['a', '--titles', 'A', '--out', 'o', '--part', 'val'])
    assert (args.titles, args.out, args.part) == (['A'], Path('o'), 'val')
    args = parser.parse_args(['a', '--format', 'svg', 'pdf', '--columns', '2'])
    assert (args.format, args.columns) == (['svg', 'pdf'], 2)
    with pytest.raises(SystemExit):
        parser.parse_args(['a', '--part', 'train'])


def test_titles_of_runs(folder, capsys):
    parser = analysis_parser('Look at runs.', name='pictures')
    files = folder / 'demo.py', folder / 'best_x_epoch_1.pth'
    assert named_runs(parser, parser.parse_args([str(folder)])) == {'kd': files}
    twice = [str(folder), str(files[0]), str(folder)]
    args = parser.parse_args([*twice, '--titles', 'b', 'a'])
    assert list(named_runs(parser, args).items()) == [('b', files), ('a', files)]
    for titles in ([], ['--titles', 'a'], ['--titles', 'a', 'a']):
        with pytest.raises(SystemExit, match='2'):
            named_runs(parser, parser.parse_args([*twice, *titles]))
        assert 'invalid --titles: expected 2' in capsys.readouterr().err


def test_default_output_is_the_folder_that_reports_read(folder, monkeypatch, tmp_path):
    other = folder.parents[1] / 'ml' / 'seed_0'
    shutil.copytree(folder, other)
    parser = analysis_parser('Look at runs.', name='cka')

    def place(*words):
        args = parser.parse_args(list(map(str, words)))
        named_runs(parser, args)
        return args.out

    assert place(folder) == folder.resolve() / 'analysis' / 'cka'  # outside of this folder
    assert place(folder / 'demo.py', folder).resolve() == folder / 'analysis' / 'cka'
    assert place(folder, other).resolve() == folder.parents[1] / 'analysis' / 'cka'
    assert place(folder, '--out', 'here') == Path('here')
    monkeypatch.chdir(folder.parent)
    assert place('seed_0') == Path('seed_0/analysis/cka')


def test_open_run_loads_weights_and_data(folder):
    files = folder / 'demo.py', folder / 'best_x_epoch_1.pth'
    model, loader = open_run(*files, 'test', {})
    saved = torch.load(files[1], weights_only=True)
    assert all(torch.equal(value.cpu(), saved[key]) for key, value in model.state_dict().items())
    assert not model.training
    in_order = [loader.dataset.get_data_info(index)['id'] for index in range(16)]
    assert ids(loader) == in_order
    assert len(open_run(*files, 'val', {})[1].dataset) == 4
    _, first = open_run(*files, 'test', {}, shuffle=True, batch_size=3)
    _, second = open_run(*files, 'test', {}, shuffle=True, batch_size=3)
    assert first.batch_size == 3
    assert ids(first) == ids(second) != in_order
    assert sorted(ids(first)) == sorted(in_order)
    options = {'test_dataloader.batch_size': 7, 'test_dataloader.dataset.indices': 5}
    _, few = open_run(*files, 'test', options)
    assert (few.batch_size, len(few.dataset)) == (7, 5)


@pytest.mark.parametrize(
    ('files', 'titles'),
    [
        (['a/kdml/x.pth', 'a/ml/x.pth'], ['kdml', 'ml']),
        (['s/kdml/seed_0/x.pth', 's/ml/seed_0/x.pth'], ['kdml', 'ml']),
        (['s/kdml/seed_0/x.pth', 's/kdml/seed_1/x.pth'], ['kdml, seed 0', 'kdml, seed 1']),
        (['a/kdml/x.pth', 'b/kdml/x.pth', 'b/ml/x.pth'], ['a/kdml', 'b/kdml', 'ml']),
        (['a/kdml/x.pth', 'a/kdml/y.pth'], ['/r/a/kdml: x', '/r/a/kdml: y']),
    ],
)
def test_runs_are_named_by_folders_that_differ(files, titles):
    assert default_titles([(Path('c.py'), Path('/r', file)) for file in files]) == titles


def test_configs_name_checkpoints_of_one_folder():
    runs = [(Path(f'{name}.py'), Path('/w', f'{name}.pth')) for name in 'ab']
    assert default_titles(runs) == ['w (a)', 'w (b)']
