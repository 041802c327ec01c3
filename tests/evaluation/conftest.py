"""Fixtures: a function that evaluates a metric, and samples of detectors."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, InstanceData

MEMBERS = ('teacher', 'student_1', 'student_2')
META = dict(classes=('cell', 'platelet', 'artefact'))
SIZE = (100, 120)  # height, width


def instances(boxes, labels, scores=None):
    boxes = torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 4))
    made = InstanceData(bboxes=boxes, labels=torch.as_tensor(labels, dtype=torch.long))
    if scores is not None:
        made.scores = torch.as_tensor(scores, dtype=torch.float32)
    return made


def found(boxes, labels, scores):
    """Return the predictions of a member."""
    from mmdet.structures import DetDataSample

    return DetDataSample(pred_instances=instances(boxes, labels, scores))


def classroom(img_id, truth, ignored=((), ()), ensemble=((), (), ()), **members):
    """Return a sample with members, each a tuple of boxes, labels and scores."""
    sample = found(*ensemble)
    sample.set_metainfo(dict(img_id=img_id, img_path=f'{img_id}.png', ori_shape=SIZE))
    sample.gt_instances, sample.ignored_instances = instances(*truth), instances(*ignored)
    if members:
        sample.members = BaseDataElement(**{name: found(*own) for name, own in members.items()})
    return sample


def random_boxes(rng, number):
    corner = rng.uniform(0, 60, (number, 2))
    return np.hstack([corner, corner + rng.uniform(5, 40, (number, 2))])


def random_samples(count=6, seed=0, names=MEMBERS):
    """Return samples whose members find some of the true boxes, at shifted places, and others."""
    rng = np.random.default_rng(seed)
    samples = []
    for img_id in range(count):
        number = int(rng.integers(0, 6))
        boxes, labels = random_boxes(rng, number), rng.integers(0, 2, number)  # no artefact
        truth, crowd = (boxes, labels), (random_boxes(rng, 1), [0])
        predictions = {}
        for name in (*names, 'ensemble'):
            seen = rng.random(number) < 0.8
            own = np.vstack(
                [boxes[seen] + rng.normal(0, 1.5, (seen.sum(), 4)), random_boxes(rng, 2)]
            )
            classes = np.append(labels[seen], rng.integers(0, 3, 2))
            predictions[name] = (own, classes, rng.uniform(0.05, 1, len(own)))
        samples.append(classroom(img_id, truth, crowd, **predictions))
    return samples


def separate(samples, name):
    """Return samples with only the predictions of a member."""
    plain = []
    for sample in samples:
        one = sample.clone()
        own = one if name == 'ensemble' else one.members.get(name)
        one.pred_instances = own.pred_instances
        del one.members
        plain.append(one)
    return plain


@pytest.fixture(scope='session')
def boxes():
    """Functions that make samples of detectors."""
    pytest.importorskip('mmdet')
    return SimpleNamespace(
        META=META, MEMBERS=MEMBERS, classroom=classroom, random=random_samples, separate=separate
    )


@pytest.fixture(scope='session')
def run():
    """Function that returns the values of a metric for some samples."""

    def run(metric, samples, meta=None, batch=2):
        evaluator = Evaluator(metric)
        evaluator.dataset_meta = meta
        for start in range(0, len(samples), batch):
            evaluator.process(samples[start : start + batch], None)
        return evaluator.evaluate(len(samples))

    return run
