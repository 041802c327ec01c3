import json

import pytest
from mmengine.config import ConfigDict

from mmkdml.apis.folds import set_fold
from mmkdml.apis.run.volumes import complete_volumes

T1, T2 = dict(name='T1', scheme='zscore'), dict(name='T1', scheme='none')


@pytest.fixture
def write(tmp_path):
    """Function that writes a manifest."""

    def write(folder='.', **more):
        manifest = dict(
            classes=['background', 'a', 'b'], channel_names=['T1'], axis=1, slice_size=[50, 35],
            intensity=[T1],
        )  # fmt: skip
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / 'splits.json').write_text(json.dumps(manifest | more))

    return write


@pytest.fixture
def config(tmp_path):
    """Config of a data set inside a wrapper, as of a file and as of a run's folder."""

    def loader(kind, context=1):
        steps = ('LoadVolumeSlice', 'NormalizeVolume', 'Resize')
        load, normalize, resize = (dict(type=f'{kind}{name}') for name in steps)
        pipeline = [dict(load, context=context), normalize, dict(resize, scale=None)]
        dataset = dict(
            type=f'{kind}VolumeSliceDataset', ann_file=f'{tmp_path}/train.csv', pipeline=pipeline
        )
        return dict(dataset=dict(type='RepeatDataset', dataset=dataset))

    head, backbone = dict(num_classes=None), dict(in_channels=None, depth=18)
    return ConfigDict(
        train_dataloader=loader('mmkdml.'),
        test_dataloader=loader('mmkdml.datasets.volumes.x.'),
        val_dataloader=None,
        model=dict(input_size=None, students=[dict(backbone=backbone, head=head)], seed=None),
    )


def pipelines(config):
    return [
        config[part].dataset.dataset.pipeline for part in ('train_dataloader', 'test_dataloader')
    ]


def test_open_settings_are_those_of_the_data(config, write):
    write(orientation='LPS')
    complete_volumes(config)
    for load, normalize, resize in pipelines(config):
        assert (load['axis'], load['orientation']) == (1, 'LPS')
        assert normalize['channels'] == [T1]
        assert resize['scale'] == (48, 64)  # width and height, multiples of 16
    student = config.model.students[0]
    assert student == dict(backbone=dict(in_channels=3, depth=18), head=dict(num_classes=3))
    assert config.model.input_size == (64, 48)
    assert config.model.seed is None


def test_set_values_are_kept(config, write):
    write()
    own = [dict(name='T1', scheme='none')]
    for _, normalize, resize in pipelines(config):
        normalize['channels'] = own
        resize['scale'] = (8, 8)
    config.model.students[0].head.num_classes = 7
    complete_volumes(config)
    assert [steps[1]['channels'] for steps in pipelines(config)] == [own, own]
    assert [steps[2]['scale'] for steps in pipelines(config)] == [(8, 8), (8, 8)]
    assert config.model.students[0].head.num_classes == 7


def test_nothing_is_set_without_a_manifest_or_volumes(config, write, tmp_path):
    before = config.copy()
    complete_volumes(config)
    assert config == before
    (tmp_path / 'splits.json').write_text('{"classes": ["a", "b"]}')
    complete_volumes(config)
    assert config == before


def test_other_context_or_classes_of_a_part_are_refused(config, write):
    write()
    pipelines(config)[1][0]['context'] = 2
    with pytest.raises(ValueError, match='3 and 3 in train, 3 and 5 in test.*context'):
        complete_volumes(config)


def test_another_fold_has_its_own_normalization(config, write):
    write(intensity=[[T1], [T2]], folds=2)
    complete_volumes(config)
    assert not any(steps[1].get('channels') for steps in pipelines(config))
    for fold, expected in ((1, [T2]), (0, [T1])):
        set_fold(config, fold)
        assert [steps[1]['channels'] for steps in pipelines(config)] == [expected, expected]
