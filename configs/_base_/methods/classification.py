"""Base of the compared methods: a frozen ResNet50 teaches a ResNet18 by predictions at T = 4.

Cross-entropy and predictions have weight 1, as in DefangChen/SimKD, except for the method SimKD.
"""

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller, PredictionKLLoss

with read_base():
    from ..networks.classifiers import data_preprocessor, resnet18, resnet50_for_resnet18

predictions = dict(
    source='teacher',
    learner='student',
    knowledge='predictions',
    weight=1.0,
    loss=dict(
        type=PredictionKLLoss,
        temperature=4.0,
        direction='source||learner',
        scale='temperature_squared',
    ),
)
features = dict(source='teacher', learner='student', knowledge='features')
# For methods that use all stages; the last stage of the teacher ends with its 1x1 block.
teacher_stages = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'neck.conv_block']
student_stages = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4']

model = dict(
    type=KnowledgeDistiller,
    members=dict(teacher=resnet50_for_resnet18, student=resnet18),
    frozen=dict(teacher='work_dirs/baselines/r50_pcam'),  # run folder or checkpoint file
    transfers=[predictions],
    input_size=(224, 224),
    data_preprocessor=data_preprocessor,
)
