"""Tools do not overwrite files that they did not write, and say so before any work."""

import pytest

from mmkdml.apis import load_config

from .conftest import CONFIG


@pytest.fixture(scope='module')
def run(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    load_config(CONFIG).dump(folder / 'mine.py')
    (folder / 'best_x.pth').hardlink_to(checkpoint)
    return folder


@pytest.mark.parametrize(
    ('words', 'name'),
    [
        (('analysis/cka', 'RUN', '--out', 'OUT'), 'cka.png'),
        (('analysis/cka', 'RUN', '--out', 'OUT'), 'cka.csv'),
        (('analysis/panels', 'RUN', '--out', 'OUT'), 'worst.png'),
        (('analysis/panels', 'RUN', '--out', 'OUT'), 'worst_cases.csv'),
        (('predict', 'RUN', 'IMAGES', '--out', 'OUT'), 'predictions.csv'),
        (('export', 'RUN', '--out', 'OUT'), 'anything.txt'),
        (('publish', CONFIG, 'RUN', '--out', 'OUT'), f'{CONFIG.stem}.py'),
        (('test', CONFIG, 'RUN', '--out', 'FILE'), 'metrics.json'),
        (('suite', 'table', 'suites/demo.py', '--out', 'FILE'), 'table.md'),
        (('suite', 'claims', 'suites/demo.py', '--out', 'FILE'), 'claims.md'),
        (('suite', 'report', 'suites/demo.py', '--out', 'FILE'), 'report.html'),
        (('tune', CONFIG, '--out', 'OUT'), 'trials.csv'),
        (('tune', CONFIG, '--out', 'OUT'), f'{CONFIG.stem}_tuned.py'),
        (('benchmark', 'step', CONFIG, '--json', 'FILE'), 'costs.json'),
    ],
)
def test_other_files_are_not_overwritten(tool, run, tmp_path, words, name, capsys):
    out = tmp_path / 'out'
    out.mkdir()
    (out / name).write_text('a user wrote it')
    places = dict(RUN=run, OUT=out, FILE=out / name, IMAGES=CONFIG.parents[2] / 'docs' / 'demo.png')
    with pytest.raises(SystemExit) as stopped:
        tool(*(places.get(word, word) for word in words), experiment=False)
    error = f'{stopped.value.code}{capsys.readouterr().err}'
    assert (out.name if words[0] == 'export' else name) in error
    assert 'Traceback' not in error
    assert (out / name).read_text() == 'a user wrote it'
    assert [path.name for path in out.iterdir()] == [name]


def test_input_is_not_overwritten(tool, run, tmp_path):
    before = (run / 'mine.py').read_bytes()
    with pytest.raises(SystemExit, match=r'mine\.py is an input'):
        tool('test', run / 'mine.py', run, '--out', run / 'mine.py', '--force', experiment=False)
    assert (run / 'mine.py').read_bytes() == before
