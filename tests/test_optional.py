import sys

import pytest

from mmkdml.optional import require


def test_returns_an_installed_module():
    assert require('json.decoder', extra='medical', purpose='tests') is sys.modules['json.decoder']


def test_missing_module_names_the_package_the_purpose_and_the_pip_command():
    with pytest.raises(ValueError, match='reading NIfTI.*no_such_package.*is not installed') as one:
        require('no_such_package', extra='medical', purpose='reading NIfTI')
    assert "pip install 'mmkdml[medical]'" in str(one.value)
    assert '\n' not in str(one.value)


def test_mmdet_is_installed_without_its_dependencies():
    with pytest.raises(ValueError, match='--no-deps') as one:
        require('no_such_package', extra='detection', purpose='detection')
    assert str(one.value).endswith(
        "Run: pip install 'mmkdml[detection]' && pip install --no-deps 'onedl-mmdetection==3.5.1'"
    )


def test_missing_dependency_of_a_module_is_named(tmp_path, monkeypatch):
    (tmp_path / 'incomplete_package.py').write_text('import no_such_dependency\n')
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match='no_such_dependency'):
        require('incomplete_package', extra='export', purpose='tests')


def test_other_errors_during_the_import_are_kept(tmp_path, monkeypatch):
    (tmp_path / 'broken_package.py').write_text("raise RuntimeError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeError, match='broken'):
        require('broken_package', extra='export', purpose='tests')
