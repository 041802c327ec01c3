import pytest

from mmkdml.console import in_words


@pytest.mark.parametrize(
    ('seconds', 'text'),
    [
        (0.4, '0 s'),
        (59.6, '1 min 0 s'),
        (200, '3 min 20 s'),
        (3600, '1 h 0 min'),
        (7505, '2 h 5 min'),
    ],
)
def test_format_of_durations(seconds, text):
    assert in_words(seconds) == text
