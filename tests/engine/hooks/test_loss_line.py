from types import SimpleNamespace

import pytest

from mmkdml.console import wrap
from mmkdml.engine.hooks.loss_line import LossLine, short_names
from mmkdml.models.transfers import Transfer


@pytest.mark.parametrize(
    ('names', 'short'),
    [
        (['teacher', 'student_1', 'student_12'], ['T', 'S1', 'S12']),
        (['teacher', 'student'], ['T', 'S']),
        (['small', 'student', 'big_2'], ['small', 'student', 'B2']),
    ],
)
def test_abbreviations_are_unique(names, short):
    assert list(short_names(names).values()) == short


def classroom(students):
    names = ['teacher', *(f'student_{n + 1}' for n in range(students))]
    transfers = [
        Transfer(source, learner, kind, 0.5)
        for learner in names[1:]
        for source in names
        for kind in ('predictions', 'features')
        if source != learner
    ]
    terms = [SimpleNamespace(key=one.key, transfer=one) for one in transfers]
    return SimpleNamespace(member_names=names, transfer_terms=terms)


@pytest.mark.parametrize('students', [1, 2, 3, 4])
@pytest.mark.parametrize('width', [80, 100])
def test_every_loss_is_shown_and_lines_fit(students, width):
    line = LossLine(model := classroom(students))
    losses = {f'{name}.decode.loss_ce': 1.0 for name in model.member_names}
    losses |= {f'{name}.aux.loss_ce': 0.5 for name in model.member_names}
    losses |= {one.key: 0.0123 for one in line.transfers}
    losses['student_1.loss_from_teacher.features.discriminator'] = 9.0  # no supervised loss
    text = wrap(line.parts({**losses, 'loss': 3.0}), width)
    assert text.startswith('loss 3.00  T 1.50')
    assert text.count(':f 0.0123') == text.count(':p 0.0123') == len(line.transfers) / 2
    assert text.count(' 1.50') == students + 1
    assert 'S1 1.50 (T:p 0.0123 T:f 0.0123' in text
    assert max(map(len, text.splitlines())) <= width


def test_networks_without_members_show_a_few_losses_by_name():
    line = LossLine(object())
    assert line.parts(dict(loss=1.0)) == ['loss 1.00']
    assert line.parts({'loss': 3.0, 'decode.loss_ce': 1.0, 'aux.loss_ce': 2.0}) == [
        'loss 3.00', '(decode.loss_ce 1.00, aux.loss_ce 2.00)'
    ]  # fmt: skip
    assert line.parts({'loss': 9.0, **{f'loss_{n}': 1.0 for n in range(9)}}) == ['loss 9.00']


def test_schedule_of_a_weight():
    model = classroom(1)
    schedule = dict(type='LinearWeight', end=5)
    row = Transfer('teacher', 'student_1', 'features', 0.5, schedule=schedule)
    model.transfer_terms.append(SimpleNamespace(key=row.key + '_2', transfer=row))
    found = [one.schedule for one in LossLine(model).transfers]
    assert found == ['', '', 'LinearWeight(end=5)']
