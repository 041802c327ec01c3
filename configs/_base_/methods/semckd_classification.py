"""SemCKD as in the code of SemCKD and SimKD: all pairs of stages, batches of eight."""

from mmengine.config import read_base

from mmkdml.models import SemCKDLoss

with read_base():
    from .classification import features, model, predictions, student_stages, teacher_stages

model.update(
    transfers=[
        predictions,
        dict(
            features,
            weight=400.0,
            loss=dict(type=SemCKDLoss, batch_size=8),
            source_tap=teacher_stages,
            learner_tap=student_stages,
        ),
    ]
)
