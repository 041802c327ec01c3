"""Variational information distillation as in the code of SimKD: all stages."""

from mmengine.config import read_base

from mmkdml.models import VariationalInformationLoss

with read_base():
    from .classification import features, model, predictions, student_stages, teacher_stages

model.update(
    transfers=[
        predictions,
        dict(
            features,
            weight=1.0,
            loss=dict(type=VariationalInformationLoss),
            source_tap=teacher_stages,
            learner_tap=student_stages,
        ),
    ]
)
