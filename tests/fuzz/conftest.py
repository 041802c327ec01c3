"""Whatever comes in, it is worked with, or the package says what is wrong with which file."""

import os

import pytest
from hypothesis import HealthCheck, settings

from mmkdml.apis.cli.common import _is_from_raise_statement

# The same few examples each time; other and more ones with a number in FUZZ_EXAMPLES.
MANY = os.environ.get('FUZZ_EXAMPLES')
settings.register_profile(
    'mmkdml',
    max_examples=int(MANY or 12),
    derandomize=not MANY,
    deadline=None,
    database=None,
    print_blob=bool(MANY),
    suppress_health_check=list(HealthCheck),
)
settings.load_profile('mmkdml')


@pytest.fixture(scope='session')
def answered():
    """Calls a function: its result, or None if the package refuses in words that name names.

    A command line that ends with a refusal, or because its arguments are wrong, is one of those.
    """

    def answer(function, *names):
        try:
            return function()
        except (ValueError, TypeError, OSError) as error:
            if not (_is_from_raise_statement(error) or (isinstance(error, OSError) and error.filename)):
                raise
            refusal = str(error)
        assert not [name for name in names if name not in refusal], refusal
        return None

    return answer
