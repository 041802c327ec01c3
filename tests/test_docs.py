"""The examples of the guides work as they stand."""

import re
from pathlib import Path

import torch

DOCS = Path(__file__).parents[1] / 'docs'


def examples(name):
    return re.findall(r'```python\n(.*?)```', (DOCS / name).read_text(), re.DOTALL)


def test_ones_own_classroom():
    (code,) = examples('your_own_classroom.md')
    names = {}
    exec(code, names)
    classroom = names['classroom']
    assert classroom.student_names == ('middle', 'small')
    logits = classroom(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert {name: tuple(one.shape) for name, one in logits.items()} == dict.fromkeys(
        ('big', 'middle', 'small'), (1, 2)
    )
