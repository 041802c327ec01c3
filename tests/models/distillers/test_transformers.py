"""Transformers, networks of timm and cascades as teachers and students."""

import copy
import re

import pytest
import torch
from mmengine import ConfigDict
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models import (
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    SwinTransformer,
    TimmClassifier,
    VisionTransformer,
    VisionTransformerClsHead,
)
from mmseg.models import CascadeEncoderDecoder, FCNHead, OCRHead, ResNetV1c

from mmkdml.inspection.config import inspect_model
from mmkdml.inspection.taps_listing import format_taps
from mmkdml.models import KnowledgeDistiller, PretrainedTIMMBackbone, Transfer
from mmkdml.models.taps import TapRecorder
from mmkdml.registry import MODELS

SIZE = 32
TIMM_VIT = dict(img_size=SIZE, patch_size=8, embed_dim=24, depth=2, num_heads=2)
TIMM_SWIN = dict(
    img_size=SIZE, patch_size=2, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
)
ARCH = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)


def timm(name, **options):
    loss = dict(type=CrossEntropyLoss)
    return dict(type=TimmClassifier, model_name=name, num_classes=3, loss=loss, **options)


def pooled(backbone, channels):
    head = dict(type=LinearClsHead, num_classes=3, in_channels=channels)
    return dict(
        type=ImageClassifier, backbone=backbone, neck=dict(type=GlobalAveragePooling), head=head
    )


CLASSIFIERS = {
    'timm_vit': timm('vit_tiny_patch16_224', **TIMM_VIT),
    'timm_deit': timm('deit_tiny_distilled_patch16_224', **TIMM_VIT),
    'timm_registers': timm('vit_small_patch14_reg4_dinov2', drop_rate=0.1, **TIMM_VIT),
    'timm_swin': timm('swin_tiny_patch4_window7_224', **TIMM_SWIN),
    'timm_cnn': timm('resnet10t'),
    'vit': dict(
        type=ImageClassifier,
        backbone=dict(
            type=VisionTransformer, arch=ARCH, img_size=SIZE, patch_size=8, drop_rate=0.1
        ),
        head=dict(type=VisionTransformerClsHead, num_classes=3, in_channels=24),
    ),
    'swin': pooled(
        dict(
            type=SwinTransformer,
            arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4),
            img_size=SIZE,
            patch_size=2,
            window_size=2,
        ),
        64,
    ),
    'features_vit': pooled(
        dict(
            type=PretrainedTIMMBackbone,
            model_name='vit_tiny_patch16_224',
            features_only=True,
            out_indices=(-1,),
            **TIMM_VIT,
        ),
        24,
    ),
    'features_swin': pooled(
        dict(
            type=PretrainedTIMMBackbone,
            model_name='swin_tiny_patch4_window7_224',
            features_only=True,
            out_indices=(1,),
            **TIMM_SWIN,
        ),
        16,
    ),
}


def ocrnet():
    backbone = dict(
        type=ResNetV1c, depth=18, base_channels=4, stem_channels=4,
        strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4),
    )  # fmt: skip
    common = dict(in_channels=32, channels=8, num_classes=3, dropout_ratio=0.5)
    head = dict(type=OCRHead, ocr_channels=4, **common)
    return dict(
        type=CascadeEncoderDecoder,
        num_stages=2,
        backbone=backbone,
        decode_head=[dict(type=FCNHead, num_convs=1, **common), head],
        test_cfg=ConfigDict(mode='whole'),
    )


def batch(kind, tiny):
    samples = tiny.mask_samples(4, 3) if kind == 'ocrnet' else tiny.class_samples()
    return tiny.images(), samples


def network(kind):
    return MODELS.build(copy.deepcopy(ocrnet() if kind == 'ocrnet' else CLASSIFIERS[kind]))


def peer(kind, tiny):
    return ocrnet() if kind == 'ocrnet' else tiny.classifier()


class Plain(BaseModel):
    """Network in plain training with the key of its weights in a classroom."""

    def __init__(self, member):
        super().__init__()
        self.members = torch.nn.ModuleDict(dict(student=member))

    def forward(self, inputs, samples, mode):
        return self.members['student'](inputs, samples, mode=mode)


@pytest.mark.parametrize(
    'kind', ['timm_vit', 'timm_swin', 'vit', 'swin', 'features_swin', 'ocrnet']
)
def test_zero_weights_are_plain_training(kind, tiny):
    member = network(kind)
    transfers = [Transfer('teacher', 'student', one, 0) for one in ('predictions', 'features')]
    classroom = KnowledgeDistiller(
        members=dict(teacher=MODELS.build(peer(kind, tiny)), student=copy.deepcopy(member)),
        transfers=transfers,
        frozen=dict(teacher=None),
        input_size=tiny.size,
    )
    batches = [batch(kind, tiny)] * 2
    expected = tiny.train(Plain(member), batches)
    found = tiny.train(classroom, batches)
    weights = {key: value for key, value in found.items() if key.startswith('members.student.')}
    assert len(weights) > 4
    for key, value in weights.items():
        plain = key if key in expected else key.replace('student.', 'student.model.')  # of timm
        assert torch.equal(value, expected[plain])


@pytest.mark.parametrize('kind', [*CLASSIFIERS, 'ocrnet'])
def test_logits_are_transferred_in_both_directions(kind, tiny):
    classroom = KnowledgeDistiller(
        members=dict(a=network(kind), b=MODELS.build(peer(kind, tiny))),
        transfers=[Transfer('a', 'b', 'predictions', 1.0), Transfer('b', 'a', 'predictions', 1.0)],
        input_size=tiny.size,
    )
    losses = classroom(*batch(kind, tiny), mode='loss')
    for learner, source in ('ab', 'ba'):
        found = losses[f'{learner}.loss_from_{source}.predictions']
        grads = torch.autograd.grad(
            found, classroom.members[learner].parameters(), retain_graph=True, allow_unused=True
        )
        assert any(grad is not None and grad.abs().sum() > 0 for grad in grads)
    predicted = classroom.eval().predict(*batch(kind, tiny))
    assert set(predicted[0].members.keys()) == {'a', 'b'}


def advised(error):
    """Return the arguments that an error advises to set."""
    text = re.search(r'Set (.*) in the transfer', str(error)).group(1)
    names = re.findall(r'(\w+)=', text)
    return {
        name: value
        for name, value in eval(f'dict({text})', dict(dict=dict)).items()
        if name in names
    }


@pytest.mark.parametrize(
    ('kind', 'transformer_teaches'),
    [(kind, True) for kind in CLASSIFIERS] + [('timm_vit', False), ('timm_swin', False)],
)
def test_features_with_the_advised_projector(kind, transformer_teaches, tiny):
    members = dict(teacher=network(kind), student=MODELS.build(tiny.classifier(width=5)))
    if not transformer_teaches:
        members = dict(teacher=members['student'], student=members['teacher'])
    row = dict(source='teacher', learner='student', knowledge='features', weight=0.5)
    build = dict(members=members, frozen=dict(teacher=None), input_size=tiny.size)
    with pytest.raises(ValueError, match=r'Set .*projector=dict\(type=') as error:
        KnowledgeDistiller(transfers=[row], **build)
    settings = advised(error.value)
    classroom = KnowledgeDistiller(transfers=[{**row, **settings}], **build).eval()
    (term,) = classroom.transfer_terms
    tokens = 'features' not in kind and kind not in ('swin', 'timm_cnn')
    assert (settings['projector']['type'] == 'mmkdml.MapProjector') == tokens
    losses = classroom(*batch(kind, tiny), mode='loss')
    maps = []
    for name, tap in (('teacher', term.source_tap), ('student', term.learner_tap)):
        with torch.no_grad(), TapRecorder(members[name], [tap]) as taps:
            members[name](tiny.images(), mode='tensor')
        x = taps[tap]
        if x.ndim == 3:  # the last 16 tokens are the 4x4 patches of an image
            x = x[:, -16:].mT.reshape(4, 24, 4, 4)
        elif kind == 'timm_swin' and 'model' in tap:
            x = x.movedim(-1, 1)
        maps.append(x)
    source, learner = maps
    projector = term.projector.projector if tokens else term.projector
    expected = 0.5 * (projector(learner) - source).square().mean()
    torch.testing.assert_close(losses['student.loss_from_teacher.features'], expected)


def test_loss_on_maps_names_the_projector_for_tokens(tiny):
    members = dict(teacher=network('timm_vit'), student=network('timm_deit'))
    row = dict(
        source='teacher', learner='student', knowledge='features', weight=1.0,
        loss=dict(type='mmkdml.AttentionTransferLoss'),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r'\(4x4 tokens \+ 1 prefix\).*MapProjector') as error:
        KnowledgeDistiller(members=members, transfers=[row], input_size=tiny.size)
    row.update(advised(error.value))
    assert row['projector'] == dict(type='mmkdml.MapProjector')
    KnowledgeDistiller(members=members, transfers=[row], input_size=tiny.size)


def test_channels_last_maps_of_both_sides(tiny):
    members = dict(teacher=network('timm_swin'), student=network('timm_swin'))
    row = dict(source='teacher', learner='student', knowledge='features', weight=1.0)
    classroom = KnowledgeDistiller(members=members, transfers=[row], input_size=tiny.size)
    assert classroom.transfer_terms[0].projector is None  # element-wise, so the layout is the same
    row['loss'] = dict(type='mmkdml.AttentionTransferLoss')
    with pytest.raises(ValueError, match=r"8x8, channels last.*MapProjector'\) in the transfer"):
        KnowledgeDistiller(members=members, transfers=[row], input_size=tiny.size)


def test_projector_of_vectors_is_refused(tiny):
    transfer = Transfer(
        'a', 'b', 'features', 1.0, source_tap='model.head', learner_tap='backbone',
        projector=dict(type='mmkdml.MapProjector'),
    )  # fmt: skip
    members = dict(a=network('timm_vit'), b=tiny.classifier())
    with pytest.raises(ValueError, match=r'Invalid source_layout: .* got None'):
        KnowledgeDistiller(members=members, transfers=[transfer], input_size=tiny.size)


def test_taps_are_listed_with_their_grids(tiny):
    members = dict(vit=network('timm_vit'), swin=network('timm_swin'))
    classroom = KnowledgeDistiller(members=members, transfers=[], input_size=tiny.size)
    lines = [line.split('|')[1:-1] for line in format_taps(inspect_model(classroom)).splitlines()]
    rows = {line[1].strip(): (line[0].strip(), line[3].strip()) for line in lines if len(line) == 4}
    assert rows['model.layers.0'][1] == '1x16x16x8 (16x16, channels last)'
    assert rows['model.blocks.1'] == ('*', '1x17x24 (4x4 tokens + 1 prefix)')
    assert rows['model.layers.1'] == ('*', '1x8x8x16 (8x8, channels last)')


def test_weights_of_networks_of_timm_are_saved_and_loaded(tiny):
    build = dict(transfers=[], input_size=tiny.size)
    first, second, third = (
        KnowledgeDistiller(
            members=dict(a=network('timm_vit'), b=tiny.classifier(), c=network('timm_cnn')), **build
        )
        for _ in range(3)
    )
    weights = copy.deepcopy(first).state_dict()
    stock = first.members['a'].state_dict()
    assert {f'members.a.{key}' for key in stock} == {
        k for k in weights if k.startswith('members.a.')
    }
    second.members['a'].model.load_state_dict(stock)  # the names are timm's own
    second.load_state_dict(weights)
    load_state_dict(third, weights, strict=True)  # as mmengine resumes
    for other in (second, third):
        assert same_weights(other.state_dict(), weights)
    average = ExponentialMovingAverage(first)
    assert same_weights(average.state_dict(), {f'module.{key}': x for key, x in weights.items()})
    assert not average.load_state_dict(average.state_dict()).missing_keys


def same_weights(found, expected):
    found.pop('steps', None)  # of a weight average
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in found.items()
    )


@pytest.mark.parametrize('loaded', [True, False])
def test_local_weights_of_timm_are_kept(loaded, tiny, tmp_path):
    stock = network('timm_vit')
    torch.save(stock.state_dict(), tmp_path / 'vit.pth')
    file = dict(checkpoint_path=str(tmp_path / 'vit.pth')) if loaded else {}
    members = dict(student=dict(CLASSIFIERS['timm_vit'], **file), teacher=CLASSIFIERS['timm_vit'])
    frozen = dict(teacher=str(tmp_path / 'vit.pth'))
    build = dict(transfers=[], frozen=frozen, input_size=tiny.size, students=['student'])
    classroom = KnowledgeDistiller(members=members, **build)
    classroom.init_weights()
    for name, kept in (('student', loaded), ('teacher', True)):
        weights = classroom.named_members()[name].state_dict()
        assert (
            torch.equal(weights['patch_embed.proj.weight'], stock.model.patch_embed.proj.weight)
            == kept
        )


def test_default_tap_of_a_network_without_stages_raises(tiny):
    member = network('timm_cnn')
    member.model.feature_info = []
    members = dict(a=member, b=tiny.classifier())
    transfer = Transfer('a', 'b', 'features', 1.0)
    with pytest.raises(ValueError, match='ResNet: timm does not list the stages.*source_tap'):
        KnowledgeDistiller(members=members, transfers=[transfer], input_size=tiny.size)
    classroom = KnowledgeDistiller(members=members, transfers=[], input_size=tiny.size)
    assert 'model.layer4' in format_taps(inspect_model(classroom), 'a')


@pytest.mark.parametrize(
    ('learned', 'error'),
    [
        (dict(type='UncertaintyWeighting'), ''),
        (dict(type='GradNorm', layer='model.layer4'), ''),
        (dict(type='GradNorm'), 'layer.* a has no default.*Set layer'),
    ],
)
def test_learned_weights_of_a_network_without_stages(learned, error, tiny):
    member = network('timm_cnn')
    member.model.feature_info = []
    build = dict(
        members=dict(a=member, b=tiny.classifier()),
        transfers=[Transfer('b', 'a', 'predictions', 1.0)],
        learned_weights=learned,
        input_size=tiny.size,
    )
    if error:
        with pytest.raises(ValueError, match=error):
            KnowledgeDistiller(**build)
    else:
        assert KnowledgeDistiller(**build).learned_weights.losses.keys() == {'a'}
