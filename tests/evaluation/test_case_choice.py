import pytest

from mmkdml.evaluation.case_choice import choose_by_group


@pytest.mark.parametrize(
    ('groups', 'num', 'expected'),
    [
        ('aaabbc', 3, [0, 3, 5]),  # one of each
        ('aaabbc', 4, [0, 1, 3, 5]),  # a second one only after all groups
        ('aaabbc', 5, [0, 1, 3, 4, 5]),
        ('aab', 9, [0, 1, 2]),
        ('aab', 1, [0]),
        ('', 2, []),
        ([1, None, None], 2, [0, 1]),
    ],
)
def test_no_group_is_repeated_before_all_are_used(groups, num, expected):
    assert choose_by_group(list(groups), num) == expected
