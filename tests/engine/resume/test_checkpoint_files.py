from io import BytesIO

from mmengine.fileio import get_file_backend

from mmkdml.engine.resume.checkpoint_files import ATOMIC_FILES


def test_old_files_are_removed_unless_kept_or_rewritten(tmp_path):
    backend = get_file_backend(tmp_path, backend_args=ATOMIC_FILES)
    old, again = tmp_path / 'sub' / 'old.pth', tmp_path / 'again.pth'
    backend.put(b'old', old)
    backend.put(BytesIO(b'again'), again)
    backend.remove(str(old))
    backend.remove(again)
    assert old.read_bytes() == b'old'
    backend.remove_old(str(again), None)
    assert not old.exists()
    assert again.read_bytes() == b'again'
    backend.put(b'old', old)
    backend.remove_old()
    assert old.exists()
    assert again.exists()
