import pytest

from mmkdml.metric_info import METRIC_INFOS, class_of_metric, metric_info, unit_of
from mmkdml.statistics.measures import MEASURES


@pytest.mark.parametrize(
    ('key', 'label', 'digits', 'higher_is_better'),
    [
        ('student_1/calibration/ECE', 'Expected calibration error (fraction)', 4, False),
        ('calibration/ECE', 'Expected calibration error (fraction)', 4, False),
        ('ensemble/foreground/IoU', 'IoU (%)', 2, True),
        ('ensemble/foreground/IoU_tumor', 'IoU of tumor (%)', 2, True),
        ('ensemble/fidelity/IoU', "IoU with the teacher's masks (%)", 2, True),
        ('student_1/fidelity/KL', 'KL divergence from the teacher (nats)', 4, False),
        ('model/accuracy/top1', 'Accuracy (%)', 2, True),
        ('model/single-label/recall', 'Sensitivity, mean of classes (%)', 2, True),
        ('students/diversity/error_correlation', 'Error correlation of the students', 3, None),
        ('students/diversity/disagreement_a_b', 'Disagreement of the students: a_b (%)', 2, None),
        ('IoU', 'IoU (%)', 2, True),
        ('ensemble/coco/bbox_mAP', 'AP (fraction)', 4, True),
        ('student_1/coco/bbox_mAP_50', 'AP50 (fraction)', 4, True),
        ('model/coco/red_blood_cell_precision', 'AP of red_blood_cell (fraction)', 4, True),
        ('model/pascal_voc/mAP', 'AP, Pascal VOC (fraction)', 4, True),
        ('model/multi-label/mAP', 'Average precision, mean of classes (%)', 2, True),
        ('student_1/fidelity/AP50', "AP50 with the teacher's boxes (%)", 2, True),
        ('ensemble/calibration/D-ECE', 'Expected calibration error of boxes (fraction)', 4, False),
    ],
)
def test_title_unit_and_direction(key, label, digits, higher_is_better):
    info = metric_info(key)
    assert (info.label, info.digits, info.higher_is_better) == (label, digits, higher_is_better)


@pytest.mark.parametrize('key', ['my/metric', 'ECE_x', 'IoU_', '', 'calibration/x'])
def test_unknown_metrics(key):
    assert metric_info(key) is None
    assert unit_of(key) == ''


@pytest.mark.parametrize(
    ('key', 'unit'),
    [
        ('foreground/case_F1', 'percent'),
        ('foreground/IoU_large_tumour', 'percent'),
        ('diversity/error_correlation', 'correlation'),
        ('calibration/ECE', 'fraction'),
    ],
)
def test_units(key, unit):
    assert unit_of(key) == unit


def test_unit_of_differences():
    found = {name: METRIC_INFOS[name].difference_unit for name in ('IoU', 'HD95', 'Brier')}
    assert found == dict(IoU='points', HD95='mm', Brier='fraction')
    assert METRIC_INFOS['false_positives'].difference_unit == ''


def test_units_and_directions_of_the_measures_of_suites():
    for name, measure in MEASURES.items():
        assert measure.info is METRIC_INFOS[name]
    others = {
        name: (measure.info.unit, measure.info.higher_is_better)
        for name, measure in MEASURES.items()
        if (measure.info.unit, measure.info.higher_is_better) != ('percent', True)
    }
    assert others == {
        'HD95': ('mm', False),
        'ASD': ('mm', False),
        'HD95px': ('px', False),
        'ASDpx': ('px', False),
        'volume_error': ('percent', False),
        'volume_difference': ('ml', False),
        'false_positives': ('number', False),
        'Brier': ('fraction', False),
    }


@pytest.mark.parametrize(
    ('key', 'title'),
    [
        ('ensemble/per_class/HD95_px', 'HD95 of px (mm)'),
        ('ensemble/per_class/HD95px_left', 'HD95px of left (px)'),
        (
            'model/per_class/sensitivity_at_95_melanoma',
            'Sensitivity at 95 % specificity of melanoma (%)',
        ),
        ('model/per_class/sensitivity_melanoma', 'Sensitivity of melanoma (%)'),
        ('model/clinical/false_positives', 'False positive lesions per case'),
        ('model/clinical/volume_difference', 'Volume difference (ml)'),
    ],
)
def test_titles_of_clinical_metrics(key, title):
    assert metric_info(key).label == title


def test_metrics_of_one_class():
    assert class_of_metric('foreground/IoU_large_tumour') == ('IoU', 'large_tumour')
    assert class_of_metric('model/coco/red_cell_precision') == ('AP', 'red_cell')
    assert class_of_metric('coco/bbox_mAP_50') is None
