import pytest
import torch

from mmkdml.models.necks.pyramid import pyramid_levels
from mmkdml.models.taps import TapRecorder


def names_of(network):
    return [name for name, _ in network.named_modules()]


@pytest.mark.parametrize(('name', 'number'), [('atss', 5), ('rtmdet', 3)])
def test_levels_are_the_outputs_of_the_neck(detector, name, number):
    member = detector(name).eval()
    levels = pyramid_levels(reversed(names_of(member)))
    with torch.no_grad(), TapRecorder(member, levels) as taps:
        outputs = member.extract_feat(torch.rand(1, 3, 64, 96))
    assert len(levels) == len(outputs) == number
    for level, output in zip(levels, outputs, strict=True):
        assert torch.equal(taps[level], output)


def test_levels_of_pafpn(detector):
    from mmdet.models import PAFPN

    member = detector('atss').eval()
    member.neck = PAFPN([8, 16, 32, 64], 8, num_outs=5, start_level=1, add_extra_convs='on_output')
    levels = pyramid_levels(names_of(member))
    with torch.no_grad(), TapRecorder(member, levels) as taps:
        outputs = member.extract_feat(torch.rand(1, 3, 64, 96))
    assert [taps[level].shape for level in levels] == [output.shape for output in outputs]
    assert all(torch.equal(taps[level], one) for level, one in zip(levels, outputs, strict=True))


def test_other_networks_have_no_levels():
    assert pyramid_levels(['', 'neck', 'neck.gap', 'neck.lateral_convs.0', 'convs.0']) == []
    assert pyramid_levels(f'neck.fpn_convs.{index}.conv' for index in range(3)) == []
    # More than ten levels are in the order of numbers.
    assert pyramid_levels(f'neck.convs.{index}' for index in (10, 9))[0] == 'neck.convs.9'
