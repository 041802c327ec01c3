"""Metrics of images with several classes; tests of the other tasks are with the hard cases."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmpretrain.models import (
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    MultiLabelLinearClsHead,
    ResNet,
)
from mmpretrain.structures import DataSample
from torch.utils.data import DataLoader, Dataset

from mmkdml.analysis import case_measures
from mmkdml.analysis.case_measures import measure_cases
from mmkdml.analysis.grad_cam import cam_rows, grad_cam
from mmkdml.analysis.hard_cases import check_comparable, choose_cases
from mmkdml.models import KnowledgeDistiller
from mmkdml.registry import MODELS

CLASSES = ('Effusion', 'Mass', 'Nodule')
TRUTH = ([0, 2], [], [1], [0, 1, 2])


class Images(Dataset):
    metainfo = dict(classes=CLASSES)
    pipeline = None

    def __len__(self):
        return len(TRUTH)

    def get_data_info(self, index):
        return dict(id=f'{index}', group='g')

    def __getitem__(self, index):
        rng = torch.Generator().manual_seed(index)
        pixels = torch.randint(256, (3, 32, 32), dtype=torch.uint8, generator=rng)
        sample = DataSample(metainfo=self.get_data_info(index)).set_gt_label(TRUTH[index])
        return dict(inputs=pixels, data_samples=sample)


def network(head=MultiLabelLinearClsHead, classes=3):
    return dict(
        type=ImageClassifier,
        data_preprocessor=dict(mean=[128.0] * 3, std=[64.0] * 3),
        backbone=dict(type=ResNet, depth=18, base_channels=4, stem_channels=4),
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=head, num_classes=classes, in_channels=32),
    )


def classroom(**head):
    torch.manual_seed(0)
    members = dict(a=network(**head), b=network(**head))
    model = KnowledgeDistiller(members=members, transfers=[], input_size=(32, 32))
    for member in model.members.values():
        member.head.fc.weight.data.normal_()
    return model.eval()


@pytest.fixture(scope='module')
def loader():
    return DataLoader(Images(), 2, collate_fn=pseudo_collate)


@pytest.mark.parametrize('plain', [False, True])
def test_means_over_the_classes(loader, plain):
    model = classroom()
    if plain:
        model = model.members['a']
    table = measure_cases(model, loader)
    data = [Images()[index] for index in range(len(TRUTH))]
    with torch.no_grad():
        samples = model.test_step(pseudo_collate(data))
    for index, sample in enumerate(samples):
        row, present = table.iloc[index], np.isin(range(3), TRUTH[index])
        assert row['truth'] == '|'.join(np.array(CLASSES)[present])
        own = {'model': sample} if plain else {k: sample.members.get(k) for k in 'ab'}
        scores = {name: one.pred_score.double().numpy() for name, one in own.items()}
        for name, score in scores.items():
            assert row[f'{name}_label'] == '|'.join(np.array(CLASSES)[score >= 0.5])
            of_truth = np.where(present, score, 1 - score).mean()
            assert row[f'{name}_probability_percent'] == pytest.approx(100 * of_truth)
        if plain:
            assert np.isnan(row['disagreement_percent'])
        else:
            distance = np.abs(scores['a'] - scores['b']).mean()
            assert row['disagreement_percent'] == pytest.approx(100 * distance)


def test_single_and_several_labels_are_not_comparable(loader):
    several, single = classroom(), classroom(head=LinearClsHead)
    with pytest.raises(ValueError, match='a: multi-label classification, b: classification'):
        check_comparable(dict(a=(several, loader), b=(single, loader)))


@pytest.mark.parametrize('number', [1, 3])
def test_grad_cam_explains_the_logit_of_a_class(number):
    several = MODELS.build(network(classes=number)).eval()
    single = MODELS.build(network(LinearClsHead, number + 1)).eval()  # one more than one logit
    single.backbone.load_state_dict(several.backbone.state_dict())
    with torch.no_grad():
        single.head.fc.weight.zero_()[:number] = several.head.fc.weight.normal_()
    images, classes = torch.randn(2, 3, 64, 64), torch.tensor([0, number - 1])
    maps = [grad_cam(one, images, classes) for one in (several, single)]
    torch.testing.assert_close(*maps)
    assert maps[0].any()


def test_rows_explain_the_class_with_the_highest_score(loader):
    model = classroom()
    rows = cam_rows(model, loader)
    assert [row['image'].caption for row in rows] == [
        'true: Effusion, Nodule',
        'true: no class',
        'true: Mass',
        'true: Effusion, Mass, Nodule',
    ]
    with torch.no_grad():
        data = [Images()[index] for index in range(len(TRUTH))]
        samples = model.test_step(pseudo_collate(data))
    for index, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        score = sample.members.a.pred_score
        best = int(score.argmax())
        right = (score[best] >= 0.5) == (best in TRUTH[index])
        sign = '\N{CHECK MARK}' if right else '\N{BALLOT X}'
        assert row['a'].caption.startswith(f'{sign} {CLASSES[best]} {100 * score[best]:.0f} %')
    captions = [row['b'].caption for row in cam_rows(model, loader, 'Mass')]
    assert all(' Mass ' in one for one in captions)
    with pytest.raises(ValueError, match="target 'true'.*Effusion, Mass, Nodule"):
        cam_rows(model, loader, 'true')


SQUARE = [[0.0, 0.0, 10.0, 10.0]]


def boxes(values, labels, scores=None):
    made = dict(bboxes=torch.tensor(values).reshape(-1, 4), labels=torch.tensor(labels).long())
    return made if scores is None else dict(made, scores=torch.tensor(scores))


def detected(truth, a, b, ensemble):
    found = [dict(pred_instances=boxes(*one)) for one in (a, b, ensemble)]
    return dict(
        gt_instances=boxes(*truth),
        ignored_instances=boxes([[50.0, 0.0, 60.0, 10.0]], [0]),
        members=dict(student_1=found[0], student_2=found[1]),
        **found[2],
    )


def test_boxes_of_each_image(monkeypatch):
    """Without the networks, whose predictions are given."""
    none, far = ([], [], []), [20.0, 0.0, 30.0, 10.0]
    samples = [
        # Right and in a crowd; another class and too low a score; right and false.
        detected(
            ([*SQUARE, [0.0, 20.0, 10.0, 40.0]], [0, 1]),
            ([*SQUARE, [50.0, 0.0, 60.0, 10.0]], [0, 0], [0.9, 0.8]),
            ([*SQUARE, *SQUARE], [1, 0], [0.9, 0.29]),
            ([*SQUARE, far], [0, 0], [0.9, 0.3]),
        ),
        detected(([], []), none, none, none),
        detected(([], []), none, (SQUARE, [0], [0.5]), (SQUARE, [0], [0.5])),
    ]
    model = SimpleNamespace(student_names=('student_1', 'student_2'))
    monkeypatch.setattr(case_measures, 'KnowledgeDistiller', SimpleNamespace)
    monkeypatch.setattr(
        case_measures,
        'inspect_model',
        lambda model: SimpleNamespace(task=SimpleNamespace(multi_label=False)),
    )
    monkeypatch.setattr(case_measures, 'predict_batch', lambda model, data: (None, data))

    class Images(list):
        get_data_info = list.__getitem__

    class Loader(list):
        dataset = Images(dict(img_id=name, group='g') for name in 'xyz')

    table = measure_cases(model, Loader([samples])).set_index('id')
    assert table['boxes'].tolist() == [2, 0, 0]
    assert table['smallest_px'].tolist() == pytest.approx([100, np.nan, np.nan], nan_ok=True)
    expected = dict(
        student_1_F1_percent=[200 / 3, np.nan, np.nan],
        student_2_F1_percent=[0, np.nan, 0],
        ensemble_F1_percent=[50, np.nan, 0],
        disagreement_percent=[100, 0, 100],
    )
    for name, values in expected.items():
        assert table[name].tolist() == pytest.approx(values, nan_ok=True)
    tables = dict(run=table.reset_index())
    assert choose_cases(tables, repeat_groups=True) == ['z', 'x', 'y']
    assert choose_cases(tables, 'smallest') == ['x']
    assert choose_cases(tables, 'disagreement', repeat_groups=True) == ['z', 'x', 'y']
