import pytest
import torch

from mmkdml.models import ConvProjector, MapProjector
from mmkdml.models.distillers.terms.transfer_terms import project, projector_side

TOKENS = dict(kind='tokens', grid=(2, 3), prefix_tokens=1)
NHWC = dict(kind='channels_last', grid=(2, 3))
MAP = dict(kind='map', grid=(2, 3))


def test_both_sides_become_the_same_map():
    reference = torch.randn(2, 5, 2, 3)
    tokens = torch.cat([torch.randn(2, 1, 5), reference.flatten(2).mT], dim=1)
    last = reference.permute(0, 2, 3, 1)
    for source, learner in ((TOKENS, NHWC), (NHWC, MAP), (MAP, TOKENS)):
        outputs = {'tokens': tokens, 'channels_last': last, 'map': reference}
        projector = MapProjector(source_layout=source, learner_layout=learner)
        sides = project(projector, outputs[source['kind']], outputs[learner['kind']])
        assert all(torch.equal(side, reference) for side in sides)
    assert not list(projector.parameters())


def test_several_taps():
    maps = [torch.randn(2, 5, 2, 3), torch.randn(2, 4, 2, 3)]
    projector = MapProjector(source_layout=[NHWC, MAP], learner_layout=[MAP, MAP])
    source, learner = project(projector, [maps[0].permute(0, 2, 3, 1), maps[1]], maps)
    for one, other in zip(source, learner, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize('side', ['learner', 'source'])
def test_inner_projector_is_applied_to_the_maps_of_its_side(side):
    inner = ConvProjector(5, 4, side=side).eval()
    projector = MapProjector(inner, source_layout=TOKENS, learner_layout=TOKENS)
    assert projector_side(projector) == side
    source, learner = torch.randn(2, 7, 5), torch.randn(2, 7, 5)
    found = dict(zip(('source', 'learner'), project(projector, source, learner), strict=True))
    sides = (('source', source), ('learner', learner))
    maps = {name: x[:, 1:].mT.reshape(2, 5, 2, 3) for name, x in sides}
    assert torch.equal(found.pop(side), inner(maps[side]))
    (other,) = found
    assert torch.equal(found[other], maps[other])


def test_gradient_reaches_the_patch_tokens_only():
    x = torch.randn(1, 7, 5, dtype=torch.float64, requires_grad=True)
    projector = MapProjector(source_layout=TOKENS, learner_layout=TOKENS)
    assert torch.autograd.gradcheck(lambda x: projector.as_maps(x.detach(), x)[1], x)
    projector.as_maps(x, x)[1].sum().backward()
    assert x.grad[0, :, 0].tolist() == [0, *[1] * 6]


@pytest.mark.parametrize(
    ('layout', 'message'),
    [
        (None, 'Invalid source_layout: expected a dict .* got None'),
        (dict(kind='tokens'), "Invalid source_layout {'kind': 'tokens'}: .*grid"),
        (dict(kind='x', grid=(1, 1)), 'expected one of map, tokens, channels_last'),
    ],
)
def test_invalid_layouts_raise(layout, message):
    with pytest.raises(ValueError, match=message):
        MapProjector(source_layout=layout, learner_layout=MAP)
