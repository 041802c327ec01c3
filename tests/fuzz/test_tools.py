import importlib.util
import sys
from pathlib import Path

from hypothesis import example, given
from hypothesis import strategies as st

from mmkdml.apis.cli.common import run_tool

ROOT = Path(__file__).parents[2]
FILES = ['x.py', 'x.yaml', 'x.json', 'x.pth', 'none.py', '.', 'x\0', '-h2']
SUITE = b'{"runs": [{"config": "x.py"}], "seeds": [0], "measures": ["IoU"]}'
CONTENTS = st.binary(max_size=20) | st.sampled_from(
    [b'', b'model = 3', b'model = dict(mode=3)', b'1 +', b'import nothing_there', b'{', b'runs: 3',
     SUITE, b'_base_ = "none.py"', b'raise KeyError(1)',
     b'model = dict(mode="kdml", style="v9")\ndefault_hooks = 3', b'\xff',
     b'default_hooks = dict(checkpoint=dict(save_best="a"))\nmodel = dict(mode="kdml", style="v1")']
)  # fmt: skip
WORDS = st.sampled_from(
    ['--work-dir', '--storage', 'sqlite:///x.db', 'sqlite:///none/x.db', 'mysql://x',
     'http://x:y/z', '--format', 'csv', '--checkpoint', 'last', '--cfg-options', 'model.mode=ml',
     'a', 'a.b=1', 'a=[', '=', 'model=3',
     '--grid-step', '0', '-1', '1e-320', '0.1', '--lr', '--temperature',
     '--sampler', 'tpe', '--rounds', '--batch-size', '--epochs', '--trials', '--out', '--seed',
     'nan', 'x.db', *FILES]
)  # fmt: skip


def main_of(tool):
    path = 'benchmarks/__main__.py' if tool == 'benchmark' else f'tools/{tool}.py'
    spec = importlib.util.spec_from_file_location(tool, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


TOOLS = {
    tool: main_of(tool)
    for tool in ('suite', 'tune', 'benchmark', 'test', 'publish', 'print_classroom', 'list_taps')
}
STARTS = st.sampled_from(
    [('suite', 'status'), ('suite', 'table'), ('suite', 'claims'), ('suite', 'report'),
     ('suite', 'run'), ('suite', 'resume'), ('benchmark', 'step'), ('benchmark', 'methods'),
     *((tool,) for tool in TOOLS)]
)  # fmt: skip


@given(
    start=STARTS, words=st.lists(WORDS, max_size=4), file=st.sampled_from(FILES), content=CONTENTS
)
@example(start=('tune',), words=[], file='x.py', content=b'1 +')
@example(start=('tune',), words=[], file='x.py', content=b'model = 3')
@example(start=('benchmark', 'step'), words=[], file='x.py', content=b'\xff')
@example(start=('benchmark', 'step'), words=[], file='x.py', content=b'a = 1')
@example(start=('suite', 'status'), words=['--storage', 'mysql://x'], file='x.yaml', content=SUITE)
@example(start=('print_classroom',), words=[], file='x.py', content=b'model = 3')
@example(start=('print_classroom',), words=[], file='x.py', content=b'model = dict(type="No")')
@example(start=('tune',), words=['--cfg-options', '0'], file='x.py', content=b'')
@example(start=('tune',), words=['--cfg-options', 'a=[1'], file='x.py', content=b'')
@example(start=('test',), words=['none.pth'], file='x.py', content=b'')
@example(start=('test',), words=['none.pth'], file='x.py', content=b'model = dict(type="No")')
@example(start=('suite', 'report'), words=[], file='x.json', content=b'{')
@example(start=('suite', 'run'), words=[], file='x.py', content=b'raise KeyError(1)')
def test_command_line_exits_with_one_line(
    tmp_path, monkeypatch, capsys, start, words, file, content
):
    for name in ('x.py', 'x.yaml', 'x.json', 'x.pth', 'x.db'):
        (tmp_path / name).write_bytes(content)
    tool, *command = start
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'argv', [f'{tool}.py', *command, file, *words])
    try:
        run_tool(TOOLS[tool])
    except SystemExit as stop:
        code = stop.code
    else:
        code = 0
    stderr = capsys.readouterr().err
    # argparse exits with 2 after writing to stderr; tools exit with a message.
    assert code in (0, 2, None) or str(code).startswith((f'{tool}.py: error: ', 'usage: '))
    assert code != 2 or 'error: ' in stderr
