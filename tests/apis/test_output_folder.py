import os

import pytest

from mmkdml.apis.output_folder import MANIFEST, OutputFolder, refuse_existing


@pytest.fixture
def out(tmp_path):
    return tmp_path / 'out'


def test_only_own_files_are_replaced(out):
    OutputFolder(out).write_text('a/b.txt', 'first')
    (out / 'a' / 'c.txt').write_text('a user wrote it')
    again = OutputFolder(out)
    again.write_text(out / 'a' / 'b.txt', 'second')
    assert (out / 'a' / 'b.txt').read_text() == 'second\n'
    for path in ('a/c.txt', out / 'a' / 'c.txt'):
        with pytest.raises(FileExistsError, match=r'a/c\.txt: expected new files'):
            again.write_text(path, 'third')
        with pytest.raises(FileExistsError, match=r'a/c\.txt: '):
            again.check(['new.txt', 'a/b.txt', path])
    again.remove('a/c.txt')
    assert (out / 'a' / 'c.txt').read_text() == 'a user wrote it'
    again.remove('a/b.txt')
    assert not (out / 'a' / 'b.txt').exists()
    assert (out / MANIFEST).read_text() == '"a/b.txt"\n'


def test_error_names_up_to_five_files(out):
    out.mkdir()
    for number in range(7):
        (out / f'{number}.txt').touch()
    with pytest.raises(FileExistsError, match=r'0\.txt, .*4\.txt and 2 more: '):
        OutputFolder(out).check(f'{number}.txt' for number in range(9))


def test_folder_and_subfolder_with_equal_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    OutputFolder('masks').write_text('masks/x.txt', 'x')
    assert (tmp_path / 'masks' / 'masks' / 'x.txt').is_file()


@pytest.mark.parametrize('link', ['itself', 'symbolic', 'hard', 'folder'])
def test_inputs_are_never_replaced(tmp_path, out, link):
    """Inputs that a tool wrote, and links to them, are protected, too."""
    OutputFolder(out).write_text('x.txt', 'input')
    source, target = out / 'x.txt', 'x.txt'
    if link == 'symbolic':
        (tmp_path / 'link.txt').symlink_to(source)
        source = tmp_path / 'link.txt'
    elif link == 'hard':
        source = tmp_path / 'link.txt'
        source.hardlink_to(out / 'x.txt')
    elif link == 'folder':
        (tmp_path / 'other').symlink_to(out, target_is_directory=True)
        source = tmp_path / 'other' / 'x.txt'
    outputs = OutputFolder(out, inputs=[source, tmp_path / 'missing'])
    with pytest.raises(FileExistsError, match=r'x\.txt: expected .* got inputs'):
        outputs.write_text(target, 'other')
    outputs.remove(target)
    assert source.read_text() == 'input\n'
    with pytest.raises(FileExistsError, match=r'x\.txt is an input'):
        refuse_existing(out / 'x.txt', force=True, inputs=[source])


def test_failed_write_keeps_the_previous_file(out):
    outputs = OutputFolder(out)
    outputs.write_text('x.nii.gz', 'old')
    names = []

    def stop():
        with outputs.writing('x.nii.gz') as part:
            names.append(part.name)
            part.write_text('half')
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert names[0].endswith('.part.nii.gz')
    assert (out / 'x.nii.gz').read_text() == 'old\n'
    assert sorted(path.name for path in out.iterdir()) == [MANIFEST, 'x.nii.gz']


def test_file_listed_before_an_interruption_can_be_replaced(out, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(os, 'replace', lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            OutputFolder(out).write_text('ö\n.txt', 'x')
    OutputFolder(out).write_text('ö\n.txt', 'y')
    OutputFolder(out).write_text('ö\n.txt', 'z')
    assert (out / 'ö\n.txt').read_text() == 'z\n'


def test_links_of_a_user_are_not_replaced(tmp_path, out):
    out.mkdir()
    (tmp_path / 'precious.txt').write_text('precious')
    (out / 'x.txt').symlink_to(tmp_path / 'precious.txt')
    (out / 'broken.txt').symlink_to(tmp_path / 'nowhere')
    for name in ('x.txt', 'broken.txt'):
        with pytest.raises(FileExistsError, match=name):
            OutputFolder(out).write_text(name, 'y')
    assert (tmp_path / 'precious.txt').read_text() == 'precious'


def test_file_names_of_almost_255_bytes(out):
    name = 'ä' * 125 + '.png'
    OutputFolder(out).write_text(name, 'x')
    assert (out / name).is_file()
    with pytest.raises(OSError, match='too long'):
        OutputFolder(out).write_text('x' * 256, 'x')


def test_named_file_is_replaced_only_with_force(tmp_path):
    path = tmp_path / 'x.json'
    refuse_existing(path)
    path.touch()
    with pytest.raises(FileExistsError, match=r'x\.json already exists.*--force'):
        refuse_existing(path)
    refuse_existing(path, force=True)
