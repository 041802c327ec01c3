"""Malformed ``--cfg-options`` end every tool with a one-line error."""

import pytest

from mmkdml.apis import load_config

from .conftest import CONFIG

TOOLS = {
    'train': (CONFIG,),
    'test': (CONFIG, 'RUN'),
    'predict': ('RUN', 'IMAGES', '--out', 'OUT'),
    'export': ('RUN', '--out', 'OUT'),
    'publish': (CONFIG, 'RUN', '--out', 'OUT'),
    'tune': (CONFIG, '--out', 'OUT'),
    'list_taps': (CONFIG,),
    'print_classroom': (CONFIG,),
    'view': ('RUN', 'IMAGES'),
    'analysis/cka': ('RUN', '--out', 'OUT'),
    'analysis/panels': ('RUN', '--out', 'OUT'),
    **{
        f'benchmark {command}': (CONFIG,)
        for command in ('step', 'students', 'precision', 'offline', 'data', 'end-to-end')
    },
    'benchmark methods': (CONFIG, CONFIG.with_name('teacher_demo.py')),
}
# Error by option: the text of the exit code, or the output of argparse, which exits with 2.
MALFORMED = {
    'foo': "Invalid --cfg-options 'foo': expected KEY=VALUE",
    '=1': "Invalid --cfg-options '=1': expected KEY=VALUE",
    'train_cfg.max_epochs=[1,2': 'equal number of opening and closing brackets',
    'train_cfg.max_epochs=(1]': 'equal number of opening and closing brackets',
    'train_cfg.max_epochs=1]': 'equal number of opening and closing brackets',
    'train_cfg..max_epochs=1': "Invalid option 'train_cfg..max_epochs'",
    'train_cfg.max_epochs.x=1': 'Invalid option train_cfg.max_epochs.x',
    'model.students.7.type=1': 'Invalid option model.students.7: expected an index from 0 to 1',
    'train_dataloder.batch_size=4': 'Did you mean train_dataloader',
    'train_cfg.max_epoch=1': 'Did you mean max_epochs',
}


@pytest.fixture(scope='module')
def places(checkpoint, tmp_path_factory):
    """Folder of a run, folder of images, and output folder."""
    folder = tmp_path_factory.mktemp('places')
    (folder / 'run').mkdir()
    load_config(CONFIG).dump(folder / 'run' / 'mine.py')
    (folder / 'run' / 'best_x.pth').hardlink_to(checkpoint)
    (folder / 'images').mkdir()
    return dict(RUN=folder / 'run', IMAGES=folder / 'images', OUT=folder / 'out')


@pytest.mark.parametrize('option', MALFORMED)
@pytest.mark.parametrize('name', TOOLS)
def test_malformed_option_is_one_line(tool, places, name, option, capsys):
    name_of_file, *command = name.split()
    words = (*command, *(places.get(word, word) for word in TOOLS[name]))
    with pytest.raises(SystemExit) as stopped:
        tool(name_of_file, *words, options=[option], experiment=False)
    code = stopped.value.code
    error = code if isinstance(code, str) else capsys.readouterr().err
    assert code == 2 or isinstance(code, str)
    assert MALFORMED[option] in error.splitlines()[-1]
    assert 'Traceback' not in error
    assert not places['OUT'].exists()


@pytest.mark.parametrize('name', [name for name, words in TOOLS.items() if 'RUN' in words])
def test_config_that_differs_from_the_run_is_refused(tool, places, name):
    rest = TOOLS[name][TOOLS[name].index('RUN') + 1 :]
    words = [CONFIG, *(places.get(word, word) for word in ('RUN', *rest))]
    option = 'model.students.0.decode_head.dropout_ratio=0.5'
    with pytest.raises(SystemExit) as stopped:
        tool(name, *words, options=[option], experiment=False)
    message = str(stopped.value)
    assert '  model.students.0.decode_head.dropout_ratio: (not set) -> 0.5\n' in message
    assert f'pass only {places["RUN"]}' in message
    assert '--use-config' in message
    assert not places['OUT'].exists()


@pytest.mark.parametrize('name', ['print_classroom', 'list_taps'])
def test_folder_of_a_run_is_a_config(tool, places, name, capsys):
    tool(name, places['RUN'], experiment=False)
    assert 'student_2' in capsys.readouterr().out


def test_all_tools_with_options_are_tested():
    tools = CONFIG.parents[2] / 'tools'
    parsers = ('config_parser', 'add_cfg_options', 'analysis_parser')
    found = {
        path.relative_to(tools).with_suffix('').as_posix()
        for path in (*tools.glob('*.py'), *tools.glob('analysis/*.py'))
        if any(parser in path.read_text() for parser in parsers)
    }
    assert found == {name for name in TOOLS if not name.startswith('benchmark')}
