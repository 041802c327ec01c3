"""Invalid input of any kind is processed, or rejected with a message that names it."""

import os

import pytest
from hypothesis import HealthCheck, settings

from mmkdml.apis.cli.common import _is_from_raise_statement

# The same few examples in each test run; FUZZ_EXAMPLES sets a number of random ones.
EXAMPLES = os.environ.get('FUZZ_EXAMPLES')
settings.register_profile(
    'mmkdml',
    max_examples=int(EXAMPLES or 12),
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=bool(EXAMPLES),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile('mmkdml')


@pytest.fixture(scope='session')
def attempt():
    """Call a function; return its result, or None if it raises an error that its user can fix.

    The message of the error must contain all names. Other errors are bugs and are raised.
    """

    def attempt(function, *names):
        try:
            return function()
        except (ValueError, TypeError, OSError) as error:
            is_file_error = isinstance(error, OSError) and error.filename
            if not (_is_from_raise_statement(error) or is_file_error):
                raise
            message = str(error)
        assert not [name for name in names if name not in message], message
        return None

    return attempt
