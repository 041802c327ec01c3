"""Folders of runs, written without training."""

import json
import math

import pytest

CLASSROOM = {
    'teacher.decode.loss': 1.0,
    'student_1.decode.loss': 0.5,
    'student_1.loss_from_teacher.features': 0.02,
    'student_1.loss_from_student_2.predictions': 0.1,
    'student_2.decode.loss': 0.6,
    'student_2.loss_from_teacher.predictions': 0.2,
}
MEMBERS = ('teacher', 'student_1', 'student_2', 'ensemble')


@pytest.fixture
def write_run(tmp_path):
    """Function that writes a run's folder; the last training may be interrupted or crash."""

    def write(
        name='run',
        losses=CLASSROOM,
        members=MEMBERS,
        starts=(0,),
        end=12,
        max_epochs=3,
        measure='foreground/IoU',
        validate=True,
        record=None,
    ):
        run = tmp_path / name
        run.mkdir()
        for number, start in enumerate(starts):
            log = run / f'2026010{number}_000000'
            (log / 'vis_data').mkdir(parents=True)
            last = end if number == len(starts) - 1 else starts[number + 1] + 1
            lines = []
            for step in range(start + 1, last + 1):
                values = {key: value / step for key, value in losses.items()}
                line = dict(lr=0.1, **values, loss=sum(values.values()), iter=step, step=step)
                lines.append(dict(line, epoch=math.ceil(step / 4)))
                if step % 4 == 0 and validate:
                    metrics = {
                        f'{one}/{measure}': 10.0 * place + step for place, one in enumerate(members)
                    }
                    lines.append(dict(metrics, step=step // 4, time=1.0))
            text = '\n'.join(map(json.dumps, lines)) + '\n{"loss": 1, "it'
            (log / 'vis_data' / 'scalars.json').write_text(text)
        settings = dict(
            default_hooks=dict(checkpoint=dict(save_best=f'{members[-1]}/{measure}')),
            train_cfg=dict(max_epochs=max_epochs),
            data=dict(train='ab' * 32, val='cd' * 32),
        )
        identity = dict(id='1', settings=settings, config='own.py')
        (run / 'identity.json').write_text(json.dumps(identity))
        (run / 'own.py').write_text("model = dict(type='Classroom')\n")
        if record:
            (log / 'call_train.json').write_text(json.dumps(dict(kind='train', **record)))
        return run

    return write
