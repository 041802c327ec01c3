import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.transforms import LoadImageFromFile
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet

from mmkdml.analysis.cam_layers import choose_layer
from mmkdml.analysis.grad_cam import cam_bar, cam_rows, class_index, grad_cam
from mmkdml.analysis.hard_cases import list_cases, only_cases
from mmkdml.models import BinaryLinearClsHead, ConvBlockNeck, PretrainedTIMMBackbone
from mmkdml.models.tasks import task_of
from mmkdml.registry import MODELS

CLASSES = ('no tumour', 'tumour')


def classifier(backbone, channels, head=None, neck=None):
    torch.manual_seed(0)
    neck = neck or dict(type=GlobalAveragePooling)
    head = head or dict(type=LinearClsHead, num_classes=3)
    config = dict(type=ImageClassifier, backbone=backbone, neck=neck)
    network = MODELS.build(dict(config, head=dict(head, in_channels=channels)))
    network.head.fc.weight.data.normal_()
    return network.eval()


RESNET = dict(type=ResNet, depth=18, base_channels=4, stem_channels=4)
MOBILENET = dict(type=PretrainedTIMMBackbone, model_name='mobilenetv1_100')
BLOCK = dict(type=ConvBlockNeck, in_channels=32, out_channels=6)
NETWORKS = {
    'resnet': (RESNET, 32),
    'mobilenet': (MOBILENET, 1024),
    'block': (RESNET, 6, None, BLOCK),
    'one logit': (RESNET, 32, dict(type=BinaryLinearClsHead)),
}


@pytest.fixture(scope='module', params=NETWORKS)
def network(request):
    return classifier(*NETWORKS[request.param])


@pytest.fixture(scope='module')
def resnet():
    return classifier(*NETWORKS['resnet'])


@pytest.fixture
def images():
    return torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def last_map(network, images):
    features = network.backbone(images)[-1]
    return (
        network.neck.conv_block(features) if isinstance(network.neck, ConvBlockNeck) else features
    )


def test_last_map_matches_closed_form(network, images):
    # logit_k = sum_c W_kc mean(map_c), so its gradient at each of the hw positions is W_kc / hw.
    features = last_map(network, images)
    weight = network.head.fc.weight.detach()
    classes = torch.tensor([0, 1, 1, 0])
    rows = torch.cat([-weight, weight])[classes] if len(weight) == 1 else weight[classes]
    expected = torch.einsum('nc,nchw->nhw', rows, features) / features[0, 0].numel()
    last = task_of({'one': network}).default_tap(network)
    cam = grad_cam(network, images, classes, last)
    assert cam.shape == (4, 3, 3)
    torch.testing.assert_close(cam, expected.relu(), rtol=1e-4, atol=1e-6)
    assert 0.1 < (cam > 0).float().mean() < 0.9  # both sides of ReLU


@pytest.mark.parametrize(
    ('size', 'layer'),
    [((224, 224), 'backbone'), ((97, 128), 'backbone.layer3'), ((96, 200), 'backbone.layer2'),
     ((64, 64), 'backbone.layer2'), ((28, 28), 'backbone.layer1'), ((8, 8), 'backbone')],
)  # fmt: skip
def test_deepest_layer_of_useful_resolution_is_chosen(resnet, size, layer):
    task = task_of({'one': resnet})
    assert choose_layer(resnet, task, size) == layer
    cam = grad_cam(resnet, torch.zeros(1, 3, *size), torch.tensor([0]))
    assert cam.shape == grad_cam(resnet, torch.zeros(1, 3, *size), torch.tensor([0]), layer).shape
    assert size == (8, 8) or min(cam.shape[1:]) >= 7


def test_layer_of_a_neck_is_chosen_if_it_is_large(resnet):
    block = classifier(*NETWORKS['block'])
    task = task_of({'one': block})
    assert choose_layer(block, task, (224, 224)) == 'neck.conv_block'
    assert choose_layer(block, task, (64, 64)) == 'backbone.layer2'


def test_inner_layer_matches_autograd(resnet, images):
    backbone = resnet.backbone
    with torch.no_grad():
        features = backbone.maxpool(backbone.relu(backbone.bn1(backbone.conv1(images))))
        features = backbone.layer2(backbone.layer1(features))
    features.requires_grad_()
    logits = resnet.head.fc(backbone.layer4(backbone.layer3(features)).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 2].sum(), features)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * features.detach()).sum(dim=1).relu()
    cam = grad_cam(resnet, images, torch.full((4,), 2), 'backbone.layer2')
    torch.testing.assert_close(cam, expected, rtol=1e-4, atol=1e-6)
    assert cam.shape == (4, 12, 12)
    assert cam.any()


def test_classes_of_one_logit_are_opposed(images):
    network = classifier(*NETWORKS['one logit'])
    against, towards = (grad_cam(network, images, torch.full((4,), k)) for k in (0, 1))
    assert not ((against > 0) & (towards > 0)).any()
    assert against.any()
    assert towards.any()


def test_frozen_member_without_grad_gives_the_same_maps(resnet, images):
    expected = grad_cam(resnet, images, torch.tensor([0, 1, 2, 0]))
    frozen = copy.deepcopy(resnet).requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(grad_cam(frozen, images, torch.tensor([0, 1, 2, 0])), expected)
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


def test_grad_cam_does_not_change_the_member(resnet, images):
    network = copy.deepcopy(resnet).train()
    network.backbone.layer1.eval()
    modes = [part.training for part in network.modules()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = copy.deepcopy(network.state_dict())
    copied = images.clone()
    cam = grad_cam(network, images, torch.tensor([0, 1, 2, 0]))
    torch.testing.assert_close(cam, grad_cam(resnet, images, torch.tensor([0, 1, 2, 0])))
    assert not cam.requires_grad
    assert [part.training for part in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert all(bool((parameter.grad == 1).all()) for parameter in network.parameters())
    for part in network.modules():
        assert not part._forward_hooks
        assert not part._backward_hooks
        assert not part._forward_pre_hooks
    assert torch.equal(images, copied)
    assert not images.requires_grad
    assert torch.is_grad_enabled()


def test_invalid_member_layer_or_class_raises(resnet, images, masks):
    one = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ValueError, match="Invalid tap 'backbone.layer5': .*layer4"):
        grad_cam(resnet, images, one, 'backbone.layer5')
    with pytest.raises(ValueError, match=r'layer neck: .* got \(1, 32\)'):
        grad_cam(resnet, images, one, 'neck')
    with pytest.raises(ValueError, match=r'classes: expected 0 to 2, got \[0, 3\]'):
        grad_cam(resnet, images, torch.tensor([0, 0, 3, 0]))
    with pytest.raises(ValueError, match=r'classes: expected 0 to 2, got \[-1\]'):
        grad_cam(resnet, images, one - 1)
    for look in (
        lambda: grad_cam(masks[0].members['teacher'], images, one),
        lambda: cam_rows(*masks),
    ):
        with pytest.raises(TypeError, match='members for classification, got segmentation'):
            look()
    headless = copy.deepcopy(resnet)
    headless.head.forward = lambda feats: dict(features=feats)
    with pytest.raises(ValueError, match='logits, which LinearClsHead lacks'):
        grad_cam(headless, images, one)


def test_last_of_several_maps_is_used(resnet, images):
    stages = classifier(dict(RESNET, out_indices=(2, 3)), 32)
    classes = torch.tensor([0, 1, 2, 0])
    maps = [grad_cam(one, images, classes, 'backbone') for one in (stages, resnet)]
    torch.testing.assert_close(*maps)


def test_class_index():
    assert class_index('tumour', CLASSES) == class_index('1', CLASSES) == 1
    assert class_index('1', ('1', 'x')) == 0  # names take precedence
    for wrong in ('2', '-1', 'cyst'):
        with pytest.raises(
            ValueError,
            match=f"target '{wrong}': expected predicted, true, .* 0 to 1, .* no .*, tumour",
        ):
            class_index(wrong, CLASSES)


@pytest.mark.parametrize('target', ['predicted', 'true', 'tumour'])
def test_cam_rows(classes, target):
    model, loader = classes
    loader = only_cases(loader, list_cases(loader.dataset)['id'][::2].tolist())
    rows = cam_rows(model, loader, target)
    inputs = [
        model.data_preprocessor(dict(inputs=[one['inputs']]), False)['inputs']
        for one in loader.dataset
    ]
    with torch.no_grad():
        samples = [one for data in loader for one in model.test_step(data)]
    for index, (row, sample) in enumerate(zip(rows, samples, strict=True)):
        assert list(row) == ['image', 'teacher', 'student_1', 'student_2', 'ensemble']
        truth = int(sample.gt_label)
        # The original image in RGB.
        picture = LoadImageFromFile()(dict(img_path=sample.img_path))['img'][..., ::-1]
        assert (row['image'].image == picture).all()
        assert row['image'].caption == f'true: {CLASSES[truth]}'
        for name in ('teacher', 'student_1', 'student_2'):
            cell, own = row[name], sample.members.get(name)
            label = int(own.pred_label)
            sign = '✓' if label == truth else '✗'
            caption = f'{sign} {CLASSES[label]} {100 * own.pred_score[label]:.0f} %'
            assert cell.caption.split('\n')[0] == caption
            wanted = dict(predicted=label, true=truth, tumour=1)[target]
            cam = grad_cam(model.named_members()[name], inputs[index], torch.tensor([wanted]))
            stretched = F.interpolate(cam[None], (64, 64), mode='bilinear')[0, 0]
            if cam.any():
                assert cell.heat == pytest.approx((stretched / cam.max()).numpy(), abs=1e-4)
            assert ('is zero' in cell.caption) == (not cam.any()) == (not cell.heat.any())
            assert cell.image is row['image'].image
            assert cell.subtitle.startswith('stage 1 (')
        assert row['ensemble'].subtitle == 'mean of the students'
        if target != 'predicted':
            mean = row['student_1'].heat + row['student_2'].heat
            if mean.any():
                assert row['ensemble'].heat == pytest.approx(mean / mean.max(), abs=0.15)
    captions = '\n'.join(row[name].caption for row in rows for name in ('teacher', 'student_1'))
    assert '✓' in captions
    assert '✗' in captions


def test_cam_rows_of_a_single_network(classes):
    model, loader = classes
    network = copy.deepcopy(model.members['student_1'])
    network.data_preprocessor = model.data_preprocessor
    rows, expected = cam_rows(network, loader), cam_rows(model, loader)
    assert list(rows[0]) == ['image', 'model']
    for row, both in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row['model'].heat, both['student_1'].heat, atol=1e-6)
        assert row['model'].caption == both['student_1'].caption


def test_classes_without_names(classes):
    model, loader = classes
    few = only_cases(loader, list_cases(loader.dataset)['id'][:2].tolist())
    known = [row['teacher'].caption for row in cam_rows(model, few)]
    few.dataset._metainfo = {}
    for row, caption in zip(cam_rows(model, few, '1'), known, strict=True):
        for index, name in enumerate(CLASSES):  # the longer one first
            caption = caption.replace(name, str(index))
        assert row['teacher'].caption.split('\n')[0] == caption.split('\n')[0]
        assert row['image'].caption in ('true: 0', 'true: 1')


def test_cam_bar():
    assert cam_bar().startswith('Grad-CAM for the predicted class')
    assert cam_bar('true').startswith('Grad-CAM for the true class')
    assert cam_bar('tumour').startswith('Grad-CAM for class tumour')


def test_member_with_own_normalization_gets_its_own_inputs(classes):
    model, loader = classes
    loader = only_cases(loader, list_cases(loader.dataset)['id'][:1].tolist())
    (data,) = loader
    (inputs,) = model.data_preprocessor(dict(data), False)['inputs']
    model.renormalizations['student_1'] = Doubled()
    try:
        (row,) = cam_rows(model, loader, 'true')
    finally:
        del model.renormalizations['student_1']
    student = model.named_members()['student_1']
    cam = grad_cam(student, 2 * inputs[None], data['data_samples'][0].gt_label)
    stretched = F.interpolate(cam[None], (64, 64), mode='bilinear')[0, 0]
    expected = stretched / cam.max().clamp(min=1e-30)
    assert row['student_1'].heat == pytest.approx(expected.numpy(), abs=1e-4)


class Doubled(torch.nn.Module):
    def forward(self, inputs, samples=None, augments=()):
        return 2 * inputs
