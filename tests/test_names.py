from mmkdml.names import named_class


def test_named_class():
    assert named_class(1, ('nv', 'vasc')) == 'vasc (1)'
    assert [named_class(2, ('nv', 'vasc')), named_class(-1, ('nv',)), named_class(3, None)] == [
        '2',
        '-1',
        '3',
    ]
