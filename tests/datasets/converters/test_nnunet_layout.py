import json
import re

import pytest

from mmkdml.datasets.converters.nnunet_layout import read_layout
from mmkdml.datasets.converters.source_checks import Problems

NNUNET = dict(channel_names={'0': 'T1'}, labels=dict(background=0, a=1), file_ending='.nii.gz')


@pytest.fixture
def read(tmp_path):
    """Function that reads a layout from the content of dataset.json and the names of files."""

    def read(content, files=('imagesTr/x_0000.nii.gz', 'labelsTr/x.nii.gz')):
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        text = content if isinstance(content, str) else json.dumps(content)
        (tmp_path / 'dataset.json').write_text(text)
        problems = Problems(tmp_path)
        layout = read_layout(tmp_path, problems)
        problems.stop_if_any()
        return layout

    return read


def test_cases_of_nnunet_are_found_by_name(read):
    names = {'1': 'T2', '0': 'T1'}
    files = [f'imagesTr/a_b_000{channel}.nii.gz' for channel in (1, 0)]
    layout = read(
        NNUNET | dict(channel_names=names, labels=dict(b=2, background=0, a=1, ignore=3)),
        [*files, 'labelsTr/a_b.nii.gz', 'labelsTr/._a_b.nii.gz', 'imagesTr/notes.txt'],
    )
    assert layout.channels == ['T1', 'T2']
    assert layout.classes == ['background', 'a', 'b']
    assert layout.ignore == 3
    assert layout.cases == {'a_b': (sorted(files), 'labelsTr/a_b.nii.gz')}


def test_listed_cases_replace_the_folders(read):
    listed = dict(x=dict(images=['p/1.nii.gz'], label='q/1.nii.gz'))
    assert read(NNUNET | dict(dataset=listed)).cases == dict(x=(['p/1.nii.gz'], 'q/1.nii.gz'))


@pytest.mark.parametrize(
    ('change', 'match'),
    [
        (dict(labels=dict(background=0, whole=[1, 2], core=[2])), 'regions whole, core'),
        (dict(labels=dict(background=0, a=2)), r"as 1, 2.*'a': 2"),
        (dict(labels=dict(background=0, ignore=1)), 'one or more classes'),
        (dict(labels=dict(background=0, ignore=1, a=2)), 'ignore, if any, as the highest'),
        (dict(labels=dict(background=0, a='1')), "'a': '1'"),
        (dict(labels=None), 'labels: expected labels by name'),
        (dict(labels={str(n): n for n in range(256)}), 'at most 255, got 256'),
        (dict(channel_names=['T1']), r"channel_names: expected names by index.*\['T1'\]"),
        (dict(channel_names={'1': 'T1'}), 'channel_names'),
        (dict(file_ending='.png'), r"file_ending.*got '\.png'.*folders"),
        (dict(numTraining=2), 'numTraining: expected 2 cases, got 1'),
    ],
)
def test_invalid_description_names_the_key(read, change, match):
    with pytest.raises(ValueError, match=match):
        read(NNUNET | change)


def test_other_files_are_refused(read, tmp_path):
    with pytest.raises(FileNotFoundError, match=r'No dataset\.json'):
        read_layout(tmp_path, Problems(tmp_path))
    for content, match in (
        ('{', r'dataset\.json is damaged'),
        ('[]', 'expected a JSON object, got list'),
        ({}, 'channel_names .nnU-Net. or modality'),
    ):
        with pytest.raises(ValueError, match=match):
            read(content)


def test_invalid_entries_of_the_decathlon_are_listed(read):
    content = dict(modality={'0': 'CT'}, labels={'0': 'background', '1': 'liver'}, numTraining=1)
    entries = [
        dict(image='./a.nii.gz', label='./la/a.nii.gz'),
        dict(image='../b.nii.gz', label='l.nii.gz'),
        dict(image='c.nii.gz'),
        'd.nii.gz',
        dict(image='e.nii.gz', label='lb/a.nii.gz'),
    ]
    with pytest.raises(ValueError, match='case 1') as caught:
        read(content | dict(training=entries))
    for part in (r"case 1: .*'\.\./b", 'case 2: expected paths', 'case 3', 'duplicate case a'):
        assert re.search(part, str(caught.value))
    layout = read(content | dict(training=entries[:1]))
    assert layout.cases == dict(a=(['a.nii.gz'], 'la/a.nii.gz'))


@pytest.mark.parametrize(
    ('names', 'match'),
    [
        (('../x',), r"case '\.\./x': expected the name of a file"),
        (('x\ny',), r"case 'x\\ny': expected the name of a file"),
        (('x_label', 'x'), 'case x: x_label is also a stored file of case x_label'),
        (('Case', 'case'), 'case case: case is also a stored file of case Case'),
    ],
)
def test_names_of_cases_are_those_of_stored_files(read, names, match):
    listed = {name: dict(images=['p/1.nii.gz'], label='q/1.nii.gz') for name in names}
    with pytest.raises(ValueError, match=match):
        read(NNUNET | dict(dataset=listed))
