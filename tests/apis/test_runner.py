import warnings

from mmseg.models import FCNHead

from mmkdml.apis.runner import RunRunner


def test_notes_of_mmseg_about_its_defaults_are_hidden():
    head = dict(type=FCNHead, in_channels=4, channels=4, num_classes=2)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('always')
        FCNHead(in_channels=4, channels=4, num_classes=2)
    assert any('binary segmentation' in str(one.message) for one in shown)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        RunRunner.build_model(object.__new__(RunRunner), head)
