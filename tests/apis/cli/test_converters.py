import argparse
import shlex
from dataclasses import replace

import pytest

from mmkdml.apis.cli.converters import run_converter, summary
from mmkdml.datasets.splits import SplitRow, write_splits

SPLITS = dict(
    train=[
        SplitRow('a', 'a.png', 'g', 2, repeats=3),
        SplitRow('b', 'b.png', 'g', 0),
        SplitRow('c', 'c.png', 'h', 2),
    ],
    test=[SplitRow('d', 'd.png', 'i', 1)],
)


def cells(table):
    return [line.split() for line in table.splitlines()]


def test_summary_of_binary_labels():
    binary = {name: [replace(row, label=row.label // 2) for row in SPLITS[name]] for name in SPLITS}
    assert cells(summary(binary)) == [
        ['split', 'images', 'groups', 'positives'],
        ['train', '3', '2', '2'],
        ['test', '1', '1', '0'],
    ]


def test_several_classes_without_names_have_no_positives():
    assert cells(summary(SPLITS))[0] == ['split', 'images', 'groups', 'samples', '0', '1', '2']


def test_summary_of_classes():
    table = summary(SPLITS, ['fat', 'mucus of the colon', 'tumour'])
    assert cells(table.replace('mucus of the colon', 'mucus')) == [
        ['split', 'images', 'groups', 'samples', 'fat', 'mucus', 'tumour'],
        ['train', '3', '2', '5', '1', '0', '4'],
        ['test', '1', '1', '1', '0', '1', '0'],
    ]
    assert len({len(line) for line in table.splitlines()}) == 1


def run(argv, **places):
    def convert(source, out, kind, ratios, seed, force):
        assert (ratios, seed, force) == ([75, 10, 15], 0, False)
        write_splits(out, SPLITS, dict(source=source, kind=kind))
        return SPLITS

    parser = argparse.ArgumentParser()
    parser.add_argument('--kind', default='x')
    run_converter(parser, convert, argv=argv, **places)


PLACES = dict(config='configs/{kind}.py', data_root='data', splits_dir='splits_{kind}')


def test_next_command_with_default_paths(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run(['data', '--out', 'splits_seg/', '--kind', 'seg'], **PLACES)
    assert capsys.readouterr().out.endswith('\n\nnext:\nmmkdml train mmkdml::seg.py\n')


@pytest.mark.parametrize(('source', 'out'), [('data', 'my splits'), ('my data', 'splits_x')])
def test_next_command_with_other_paths(tmp_path, monkeypatch, capsys, source, out):
    monkeypatch.chdir(tmp_path)
    run([source, '--out', out], **PLACES)
    command = capsys.readouterr().out.partition('next:\n')[2]
    assert command.count(' \\\n    ') == 4  # one option per line
    command = shlex.split(command.replace('\\\n', ''))
    assert command == [
        *('mmkdml', 'train', 'mmkdml::x.py', '--cfg-options'),
        f'train_dataloader.dataset.data_root={source}',
        f'train_dataloader.dataset.ann_file={out}/train.csv',
        f'test_dataloader.dataset.data_root={source}',
        f'test_dataloader.dataset.ann_file={out}/test.csv',
    ]


def test_next_step_without_config(tmp_path, capsys):
    run(['data', '--out', str(tmp_path)])
    assert capsys.readouterr().out.endswith('see "Custom data" in the documentation\n')


def test_out_is_required(capsys):
    with pytest.raises(SystemExit):
        run(['data'], **PLACES)
    assert '--out' in capsys.readouterr().err
