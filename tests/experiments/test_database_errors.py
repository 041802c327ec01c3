"""Passwords in URLs; test_database.py has the errors."""

import pytest

from mmkdml.experiments.database_errors import without_passwords


@pytest.mark.parametrize(
    ('url', 'hidden', 'secrets'),
    [
        ('postgresql://u:s3cret@h:5/db', 'postgresql://u:***@h:5/db', ['s3cret']),
        ('postgresql://u:a%40b@h/db', 'postgresql://u:***@h/db', ['a%40b', 'a@b']),
        ('postgresql://h/db?password=s3cret', 'postgresql://h/db?password=***', ['s3cret']),
        ('mysql://u@h/db?passfile=/home/u/file', 'mysql://u@h/db?passfile=/home/u/file', []),
        ('mysql://u:p@ss@h/db', 'mysql://u:***@h/db', ['p@ss']),
        ('sqlite:////tmp/a:b@c/x.db', 'sqlite:////tmp/a:b@c/x.db', []),
    ],
)  # fmt: skip
def test_passwords_are_hidden(url, hidden, secrets):
    assert without_passwords(url) == (hidden, secrets)
