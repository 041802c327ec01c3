from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import TimmClassifier
from mmseg.structures import SegDataSample

from mmkdml.analysis.cka import _pooled, choose_layers, choose_pairs, measure_cka
from mmkdml.functional.cka import centered_gram, unbiased_hsic
from mmkdml.models import KnowledgeDistiller
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import task_of
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
LAYERS = ['backbone.layer1', 'decode_head.blocks.4', 'decode_head.conv_seg']


@pytest.fixture(scope='module')
def classroom():
    """Small U-Nets of the demo with random weights, in training mode."""
    torch.manual_seed(0)
    model = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py').model
    model.input_size = (32, 32)
    return MODELS.build(model).train()


@pytest.fixture(scope='module')
def network():
    model = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py').model
    return MODELS.build(dict(model.students[0], data_preprocessor=model.data_preprocessor))


def batches(*sizes):
    rng = torch.Generator().manual_seed(0)
    size = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), (32, 32))
    return [
        dict(
            inputs=[
                torch.randint(256, (3, 32, 32), generator=rng, dtype=torch.uint8)
                for _ in range(number)
            ],
            data_samples=[SegDataSample(metainfo=size) for _ in range(number)],
        )
        for number in sizes
    ]


def maps(classroom, member, data, layers=LAYERS):
    """Return the outputs of the layers in eval mode."""
    network = classroom.named_members()[member]
    network.eval()
    with torch.no_grad(), TapRecorder(network, layers) as taps:
        network(classroom.data_preprocessor(data, False)['inputs'], mode='tensor')
    network.train()
    return [taps[name] for name in layers]


def unbiased(a, b):
    def hsic(x, y):
        return unbiased_hsic(centered_gram(x)[None], centered_gram(y)[None]).item()

    return hsic(a, b) / np.sqrt(hsic(a, a) * hsic(b, b))


def test_cka_of_one_batch(classroom):
    (data,) = loader = batches(7)
    table = measure_cka(classroom, loader, [('teacher', 'student_1')], LAYERS)
    ours, theirs = maps(classroom, 'teacher', data), maps(classroom, 'student_1', data)
    short = table[['row', 'row_layer', 'column', 'column_layer', 'images']]
    assert short.to_numpy().tolist() == [
        ['teacher', row, 'student_1', column, 7] for row in LAYERS for column in LAYERS
    ]
    assert table['cka'].tolist() == pytest.approx(
        [unbiased(a, b) for a in ours for b in theirs], abs=1e-5
    )
    assert table['cka'].nunique() == 9


def test_terms_are_averaged_over_batches_weighted_by_images(classroom):
    loader = batches(6, 4, 3)  # 3 are too few
    table = measure_cka(classroom, loader, [('teacher', 'student_2')], LAYERS[:1])
    terms = []
    for data in loader[:2]:
        (a,), (b,) = (maps(classroom, name, data, LAYERS[:1]) for name in ('teacher', 'student_2'))
        terms.append(
            [
                unbiased_hsic(centered_gram(x)[None], centered_gram(y)[None]).item()
                for x, y in ((a, b), (a, a), (b, b))
            ]
        )
    joint, own, other = np.average(terms, axis=0, weights=[6, 4])
    assert table['cka'].item() == pytest.approx(joint / np.sqrt(own * other), abs=1e-5)
    assert table['images'].item() == 10


def test_member_compared_with_itself(classroom):
    table = measure_cka(classroom, batches(5, 6), [('student_1', 'student_1')], LAYERS)
    values = table['cka'].to_numpy().reshape(3, 3)
    assert values.diagonal() == pytest.approx(1)
    assert values == pytest.approx(values.T)
    assert values[0, 2] < 0.999


def test_pooled_maps(classroom):
    (data,) = loader = batches(5)
    table = measure_cka(classroom, loader, [('teacher', 'student_1')], LAYERS, pool=1)
    ours, theirs = (
        [features.mean(dim=(2, 3)) for features in maps(classroom, name, data)]
        for name in ('teacher', 'student_1')
    )
    assert table['cka'].tolist() == pytest.approx(
        [unbiased(a, b) for a in ours for b in theirs], abs=1e-5
    )
    full = measure_cka(classroom, loader, [('teacher', 'student_1')], LAYERS)
    assert abs(table['cka'] - full['cka']).max() > 1e-3
    # A size above that of the maps does not pool.
    large = measure_cka(classroom, loader, [('teacher', 'student_1')], LAYERS, pool=99)
    assert large['cka'].tolist() == full['cka'].tolist()


def test_defaults_are_all_stages_of_all_pairs(classroom):
    table = measure_cka(classroom, batches(4))
    pairs = list(dict.fromkeys(zip(table['row'], table['column'], strict=True)))
    assert pairs == choose_pairs(classroom)
    assert pairs == [('teacher', 'student_1'), ('teacher', 'student_2'), ('student_1', 'student_2')]
    stages = [f'backbone.{name}' for name in ('relu', 'layer1', 'layer2', 'layer3', 'layer4')]
    decoder = [f'decode_head.blocks.{block}' for block in range(5)]
    assert list(dict.fromkeys(table['row_layer'])) == [*stages, *decoder, 'decode_head.conv_seg']


def test_cka_does_not_change_the_model(classroom):
    before = {key: value.clone() for key, value in classroom.state_dict().items()}
    loader = batches(4)
    images = [image.clone() for image in loader[0]['inputs']]
    measure_cka(classroom, loader, patterns=LAYERS)
    after = classroom.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    assert classroom.members['teacher'].training
    assert all(map(torch.equal, images, loader[0]['inputs']))


def test_single_network_is_compared_with_itself(network):
    table = measure_cka(network, batches(5), patterns=['backbone.layer?'])
    assert set(table['row']) == set(table['column']) == {'model'}
    assert len(table) == 16


def test_constant_layer_gives_nan(classroom):
    head = classroom.members['student_2'].decode_head.conv_seg
    weight = head.weight.data.clone()
    head.weight.data.zero_()
    table = measure_cka(classroom, batches(5), [('teacher', 'student_2')], LAYERS)
    head.weight.data.copy_(weight)
    dead = table['column_layer'] == 'decode_head.conv_seg'
    assert table.loc[dead, 'cka'].isna().all()
    assert table.loc[~dead, 'cka'].notna().all()


def test_parent_of_chosen_layers_is_left_out_by_default():
    config = Config.fromfile(CONFIGS / '_base_' / 'networks' / 'classifiers.py')
    member = MODELS.build(config.resnet18)
    task = task_of({'member': member})
    assert task.default_tap(member) == 'backbone'
    stages = [f'backbone.{name}' for name in ('relu', 'layer1', 'layer2', 'layer3', 'layer4')]
    assert list(choose_layers(member, task, (32, 32))) == [*stages, 'head.fc']
    assert list(choose_layers(member, task, (32, 32), ['backbone', '*.layer4'])) == [
        'backbone.layer4',
        'backbone',
    ]


def test_patterns_select_layers(classroom, network):
    labels = choose_layers(network, classroom.task, (32, 32), ['*.layer2', '*blocks.0'])
    assert list(labels) == ['backbone.layer2', 'decode_head.blocks.0']
    assert [label.split(' (')[0] for label in labels.values()] == ['stage 2', 'decoder 1']
    with pytest.raises(ValueError, match=r'layers of EncoderDecoder: expected nothing\*, got none'):
        choose_layers(network, classroom.task, (32, 32), ['nothing*'])


def test_invalid_arguments_raise(classroom):
    with pytest.raises(ValueError, match='pool: expected at least 1, got 0'):
        measure_cka(classroom, batches(4), pool=0)
    with pytest.raises(ValueError, match='among teacher, student_1, student_2, got student_3'):
        measure_cka(classroom, batches(4), [('teacher', 'student_3')])
    with pytest.raises(ValueError, match='expected at least 4 images'):
        measure_cka(classroom, batches(3, 2), patterns=LAYERS)


def test_member_with_own_normalization_gets_its_own_inputs():
    model = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py').model
    own = dict(model.data_preprocessor, mean=[1.0, 2.0, 3.0])
    model.students[1].data_preprocessor = own
    model.input_size = (32, 32)
    torch.manual_seed(0)
    room = MODELS.build(model)
    (data,) = batches(8)
    inputs = MODELS.build(own)(batches(8)[0], False)['inputs']
    student = room.named_members()['student_2'].eval()
    with torch.no_grad(), TapRecorder(student, LAYERS[:1]) as taps:
        student(inputs, mode='tensor')
    expected = unbiased_hsic(*[centered_gram(taps[LAYERS[0]])[None]] * 2)
    shared = room.data_preprocessor(batches(8)[0], False)
    torch.testing.assert_close(room.inputs_of('student_2', **shared), inputs, rtol=1e-5, atol=1e-5)
    found = measure_cka(room, [data], [('student_1', 'student_2')], LAYERS[:1])
    maps_of = [taps[LAYERS[0]], maps(room, 'student_1', batches(8)[0], LAYERS[:1])[0]]
    grams = [centered_gram(one)[None] for one in maps_of]
    term = unbiased_hsic(grams[0], grams[1])
    spread = (expected * unbiased_hsic(grams[1], grams[1])).sqrt()
    assert found.cka[0] == pytest.approx((term / spread).item(), rel=1e-4)


def test_channels_last_maps_are_pooled_over_positions():
    swin = TimmClassifier(
        model_name='swin_tiny_patch4_window7_224', num_classes=3, img_size=64, window_size=4,
        embed_dim=8, depths=(1, 1), num_heads=(1, 2), loss=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    inputs, features = torch.zeros(2, 3, 64, 64), torch.randn(2, 16, 16, 8)
    found = _pooled(swin, 'model.layers.0', features, inputs, 4)
    expected = features.reshape(2, 4, 4, 4, 4, 8).mean(dim=(2, 4)).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected)
    vector = torch.randn(2, 3)
    assert _pooled(swin, 'model.head', vector, inputs, 4) is vector


def test_detectors_are_compared_at_levels_of_padded_images(detector):
    from mmdet.structures import DetDataSample

    config = dict(type='mmdet.DetDataPreprocessor', mean=[127.0], std=[50.0], pad_size_divisor=32)
    model = KnowledgeDistiller(
        dict(a=detector('retinanet'), b=detector('retinanet', seed=1)), [], input_size=(64, 64),
        students=['b'], data_preprocessor=config,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(0)

    def batch(*sizes):
        images = [torch.randint(256, (3, *s), generator=rng, dtype=torch.uint8) for s in sizes]
        meta = [dict.fromkeys(('ori_shape', 'img_shape'), s) for s in sizes]
        return dict(inputs=images, data_samples=[DetDataSample(metainfo=one) for one in meta])

    loader = [batch((64, 40), (50, 64), (33, 64), (64, 64)), batch(*[(32, 90)] * 4)]
    table = measure_cka(model, loader, [('a', 'a'), ('a', 'b')])
    stages = [one.split(' (')[0] for one in table['row_stage'].unique()]
    assert stages == ['stem', *(f'stage {i}' for i in range(1, 5)),
                      *(f'level {i}' for i in range(1, 6))]  # fmt: skip
    itself = table[(table['column'] == 'a') & (table['row_layer'] == table['column_layer'])]
    assert itself['cka'].tolist() == pytest.approx([1.0] * 10)
    assert (table['images'] == 8).all()
    assert table[table['column'] == 'b']['cka'].abs().max() < 1
