import pytest
import yaml
from mmengine.fileio import load

BOMBS = {
    'lists': ('[x, x]', '[*{0}, *{0}]'),
    'dicts': ('{k: x, l: x}', '{k: *{0}, l: *{0}}'),
    'merged': ('{k: x}', '{<<: [*{0}, *{0}]}'),
    'keys': ('[x, x]', '{? [*{0}, *{0}] : 1}'),
}


def test_tuples_are_read(tmp_path):
    path = tmp_path / 'x.yaml'
    path.write_text('a: !!python/tuple [1, [2.5, x]]\nb: {c: null}\n')
    assert load(path) == dict(a=(1, [2.5, 'x']), b=dict(c=None))


@pytest.mark.parametrize(
    ('tag', 'value'),
    [
        ('object/apply:os.mkdir', '[{}]'),
        ('object/new:os.mkdir', '[{}]'),
        ('name:os.mkdir', ''),
        ('module:os', ''),
    ],
)
def test_tags_of_python_objects_are_rejected(tmp_path, tag, value):
    created, path = tmp_path / 'created', tmp_path / 'x.yaml'
    path.write_text(f'a: !!python/{tag} {value.format(created)}\n')
    with pytest.raises(yaml.YAMLError, match=f'could not determine a constructor.*{tag}'):
        load(path)
    assert not created.exists()
    if value:  # the loader that mmengine uses by default executes the file
        with path.open() as file:
            yaml.load(file, yaml.CLoader)
        assert created.exists()


@pytest.mark.parametrize('kind', BOMBS)
def test_expanding_aliases_are_rejected(tmp_path, kind):
    first, more = BOMBS[kind]
    path = tmp_path / 'x.yaml'

    def write(levels):
        lines = [f'a0: &a0 {first}']
        lines += [f'a{n}: &a{n} {more.replace("{0}", f"a{n - 1}")}' for n in range(1, levels)]
        path.write_text('\n'.join(lines))

    write(40)
    with pytest.raises(yaml.YAMLError, match='1,000,000 values'):
        load(path)
    if kind != 'keys':  # a list is not a valid key of a dict
        write(6)
        assert len(load(path)) == 6


def test_recursive_alias_is_read(tmp_path):
    (tmp_path / 'x.yaml').write_text('a: &a [1, *a]')
    found = load(tmp_path / 'x.yaml')['a']
    assert found[1] is found
