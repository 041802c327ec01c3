import shutil

import mmcv
import pandas as pd
import pytest
import torch
from mmengine.config import Config

from mmkdml.registry import MODELS

DEMO = 'configs/demo/'


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    """Folders of two segmentation runs and a classification run with random weights."""
    folders = {}
    for name, config in (
        ('a', 'kdml_v3_demo'),
        ('b', 'kdml_v3_demo'),
        ('c', 'kdml_v3_demo_slices'),
    ):
        folders[name] = tmp_path_factory.mktemp(name)
        settings = Config.fromfile(f'{DEMO}{config}.py')
        torch.manual_seed(ord(name))
        weights = MODELS.build(settings.model).state_dict()
        torch.save(weights, folders[name] / 'best_x_epoch_1.pth')
        settings.dump(folders[name] / 'demo.py')
    return folders


def run(tool, options, *args):
    tool('analysis/panels', *args, options=options, experiment=False)


def test_masks_of_one_run(tool, data_options, folders, tmp_path, capsys):
    args = ('--num', 2, '--out', tmp_path, '--part', 'val')
    run(tool, data_options, folders['a'], *args)
    files = [tmp_path / 'val_worst.png', tmp_path / 'val_worst_cases.csv']
    assert capsys.readouterr().out.split() == list(map(str, files))
    assert mmcv.imread(files[0]).shape[1] > 7 * 150  # seven columns
    table = pd.read_csv(files[1])
    names = ['teacher', 'student_1', 'student_2', 'ensemble']
    assert table.columns.tolist() == [
        *('run', 'id', 'group', 'region_px'),
        *(f'{name}_IoU_percent' for name in names),
        'disagreement_percent',
    ]
    assert len(table) == 2
    # Worst first.
    assert table['ensemble_IoU_percent'].is_monotonic_increasing


@pytest.mark.slow
def test_two_runs_with_the_same_cases(tool, data_options, folders, tmp_path, capsys):
    args = ('--by', 'smallest', '--num', 3, '--titles', 'A', 'B', '--out', tmp_path)
    run(tool, data_options, folders['a'], folders['b'], *args)
    names = ['teacher', 'student_1', 'student_2', 'ensemble', 'difference', 'run_1_A', 'run_2_B']
    assert capsys.readouterr().out.split() == [
        *(str(tmp_path / f'smallest_{name}.png') for name in names),
        str(tmp_path / 'smallest_cases.csv'),
    ]
    assert all((tmp_path / f'smallest_{name}.png').is_file() for name in names)
    one, two = (part for _, part in pd.read_csv(tmp_path / 'smallest_cases.csv').groupby('run'))
    assert one['id'].tolist() == two['id'].tolist()
    assert one['region_px'].tolist() == two['region_px'].tolist() == sorted(one['region_px'])
    assert one['teacher_IoU_percent'].tolist() != two['teacher_IoU_percent'].tolist()


def test_grad_cam_of_named_cases(tool, data_options, folders, tmp_path, capsys):
    (split,) = (x.split('=')[1] for x in data_options if x.startswith('test') and 'csv' in x)
    ids = pd.read_csv(split)['id'].tolist()
    name = 'ids_towards_tumour_backbone.layer3'
    args = ('--layer', 'backbone.layer3', '--towards', 'tumour', '--out', tmp_path)
    run(tool, data_options, folders['c'], *args, '--ids', ids[2], ids[0], ids[2])
    assert capsys.readouterr().out.split()[0] == str(tmp_path / f'{name}.png')
    table = pd.read_csv(tmp_path / f'{name}_cases.csv')
    assert table['id'].tolist() == [ids[2], ids[0]]
    assert {
        'truth',
        'teacher_label',
        'ensemble_probability_percent',
        'disagreement_percent',
    } <= set(table)
    assert set(table['teacher_label']) <= {'tumour', 'no tumour'}


@pytest.fixture
def refused(tool, data_options, tmp_path):
    def refused(match, *args):
        with pytest.raises(SystemExit, match=f'^panels.py: error: {match}'):
            run(tool, data_options, *args, '--out', tmp_path / 'out')
        assert not (tmp_path / 'out').exists()

    return refused


def test_user_error_is_one_line(refused, folders, tmp_path):
    refused('There is no folder .*nowhere', tmp_path / 'nowhere')
    refused('.*expected some of the 4 in the data set, .* got x$', folders['c'], '--ids', 'x')
    refused(
        'Invalid runs: expected one task, got .*: segmentation, .*: classif',
        folders['a'],
        folders['c'],
    )


@pytest.mark.slow
def test_incomparable_runs_raise(refused, folders, tmp_path):
    refused("Invalid target 'cyst': .*predicted, true", folders['c'], '--towards', 'cyst')
    refused("Invalid tap 'backbone.x': ImageClassifier", folders['c'], '--layer', 'backbone.x')
    other = tmp_path / 'other'
    shutil.copytree(folders['a'], other)
    config = Config.fromfile(other / 'demo.py')
    dataset = config.test_dataloader.dataset
    dataset.indices = 3
    config.dump(other / 'demo.py')
    refused('Invalid runs: expected the same images, got 4 for .* and 3 for ', folders['a'], other)
    dataset.pipeline = [one for one in dataset.pipeline if 'Mask' not in one['type']]
    config.dump(other / 'demo.py')
    refused('expected the truth, gt_label or gt_sem_seg, in each sample', other)


def test_conflicting_arguments(tool, data_options, folders, capsys):
    classes = folders['c']
    for match, args in (
        ('--by smallest requires masks or boxes', (classes, '--by', 'smallest')),
        ('--layer and --towards are options of Grad-CAM', (folders['a'], '--towards', 'true')),
        ('invalid --num: expected at least 1, got 0', (classes, '--num', '0')),
        ('not allowed with argument --by', (classes, '--by', 'smallest', '--ids', 'x')),
        ('invalid --titles: expected 2', (classes, classes, '--titles', 'x')),
    ):
        with pytest.raises(SystemExit, match='2'):
            run(tool, data_options, *args)
        assert match in capsys.readouterr().err
