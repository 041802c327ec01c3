"""Properties that all registered losses share, and the equality of each to its function."""

import math
from functools import partial

import pytest
import torch

import mmkdml.functional as F
from mmkdml.functional.boxes import Objects
from mmkdml.functional.divergence import DIRECTIONS, SCALES
from mmkdml.functional.structure import PAIR_WISE_REFERENCES, PIXEL_WISE_REFERENCES
from mmkdml.models.losses import TransferLoss
from mmkdml.registry import MODELS

HALVES = [torch.bfloat16, torch.float16]
MAP = (2, 4, 8, 8)
TWO_MAPS = [MAP, (2, 8, 4, 4)]
CHANNELS = dict(learner_channels=4, source_channels=4)
WIDE = dict(learner_channels=3, source_channels=3, width=8)
# The options of each loss or variant, the shapes of its inputs, and its third argument.
LOSSES = {
    'AttentionTransferLoss': ({}, [MAP], None),
    'CategorySimilarityLoss': ({}, [(2, 3, 8, 8)], None),
    'ChannelWiseLoss': (dict(learner_channels=4, source_channels=6), [MAP], None),
    'DISTLoss': ({}, [(4, 3)], None),
    'DISTLoss map': ({}, [(2, 3, 8, 8)], None),
    'DKDLoss': ({}, [(2, 3, 8, 8)], 'truth'),
    'DetectionPredictionLoss': (dict(num_classes=3), [(2, 7, 9)], None),
    'DetectionPredictionLoss GFL': (dict(num_classes=3), [(2, 15, 9)], None),
    'FGDLoss': (dict(learner_channels=4, source_channels=6), [MAP], 'boxes'),
    'FeatureMSELoss': ({}, [MAP], None),
    'FitNetLoss': ({}, [MAP], None),
    'FocalDiceLoss': ({}, [(2, 3, 8, 8)], 'labels'),
    'FocalSmoothDiceLoss': ({}, [(2, 3, 8, 8)], 'labels'),
    'HolisticLoss': (WIDE, [(2, 3, 64, 64)], None),
    'HolisticLoss wgan-gp': (dict(WIDE, kind='wgan-gp'), [(2, 3, 64, 64)], None),
    'ImportanceMapLoss': ({}, [MAP], None),
    'IntraClassVariationLoss': (dict(num_classes=3), [MAP], 'truth'),
    'LSKDLoss': ({}, [(4, 3)], None),
    'LSKDLoss DKD': (dict(loss=dict(type='DKDLoss')), [(2, 3, 8, 8)], 'truth'),
    'MGDLoss': (dict(learner_channels=4, source_channels=6), [MAP], None),
    'PKDLoss': ({}, TWO_MAPS, None),
    'PairWiseLoss': ({}, [MAP], None),
    'PixelSimilarityLoss': ({}, TWO_MAPS, None),
    'PixelWiseLoss': ({}, [(2, 3, 8, 8)], None),
    'PredictionKLLoss': ({}, [(4, 3)], None),
    'RegionAffinityLoss': (dict(num_classes=3), [MAP], 'truth'),
    'SRRLLoss': (CHANNELS, [MAP], 'classifier'),
    'SRRLLoss origin': (dict(CHANNELS, reference='origin'), [MAP], 'classifier'),
    'SemCKDLoss': (
        dict(learner_channels=[4, 8], source_channels=[4, 8], batch_size=2, factor=1),
        TWO_MAPS,
        None,
    ),
    'SimKDLoss': ({}, [MAP], None),
    'SimilarityPreservingLoss': ({}, [(4, 4, 8, 8)], None),
    'VariationalInformationLoss': (CHANNELS, [MAP], None),
}
SAME_SHAPE = {
    'CategorySimilarityLoss',
    'ChannelWiseLoss',
    'DISTLoss',
    'DKDLoss',
    'FeatureMSELoss',
    'HolisticLoss',
    'LSKDLoss',
    'MGDLoss',
    'PixelWiseLoss',
    'PredictionKLLoss',
}
PROJECTING = {'ChannelWiseLoss', 'MGDLoss'}
DETECTION = {'DetectionPredictionLoss', 'FGDLoss'}
TRAINED = {
    *PROJECTING,
    'FGDLoss',
    'HolisticLoss',
    'SRRLLoss',
    'SemCKDLoss',
    'VariationalInformationLoss',
}


def build(name, **options):
    return MODELS.build(dict(type=name.split()[0], **options))


def tensor(shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def inputs_of(name, dtype=torch.float32, factor=1.0):
    """Build a loss with the inputs of its table row."""
    options, shapes, extra = LOSSES[name]
    torch.manual_seed(0)
    loss = build(name, **options)
    learners = [(factor * tensor(shape, 1)).to(dtype).requires_grad_() for shape in shapes]
    sources = [(factor * tensor(shape, 2)).to(dtype) for shape in shapes]
    if options.get('source_channels') == 6:
        sources = [(factor * tensor((2, 6, 8, 8), 2)).to(dtype)]
    labels = (torch.arange(len(learners[0]) * 64) % 3).view(len(learners[0]), 8, 8)
    weight = tensor((5, 4), 3)
    third = {
        'truth': [labels],
        'boxes': [[Objects(torch.tensor([[0.1, 0.2, 0.6, 0.5]]), labels[0, 0, :1])] * 2],
        'classifier': [lambda x: torch.nn.functional.linear(x, weight.to(x.dtype))],
    }.get(extra, [])
    sides = [side if len(side) > 1 else side[0] for side in (learners, sources)]
    arguments = [learners[0], labels] if extra == 'labels' else [*sides, *third]
    return loss, arguments, learners, sources


def terms_of(loss, arguments):
    torch.manual_seed(1)
    terms = [loss(*arguments)]
    if hasattr(loss, 'discriminator_loss'):
        terms.append(loss.discriminator_loss(*arguments))
    return terms


def test_table_contains_every_registered_loss():
    registered = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith('mmkdml.models.losses')
    }
    assert registered == {name.split()[0] for name in LOSSES}


@pytest.mark.parametrize('name', LOSSES)
def test_attributes(name):
    options, _, extra = LOSSES[name]
    loss = build(name, **options)
    kind = type(loss).__name__
    assert bool(loss.state_dict()) == bool(list(loss.parameters())) == (kind in TRAINED)
    assert repr(loss).startswith(kind)
    if extra != 'labels':
        assert isinstance(loss, TransferLoss)
        assert loss.requires_same_shape == (kind in SAME_SHAPE)
        assert loss.projects_channels == (kind in PROJECTING)
        assert loss.needs_truth == (extra in {'truth', 'boxes'})
        assert loss.for_detection == (kind in DETECTION)
        assert loss.needs_source_classifier == (extra == 'classifier')


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('inputs', ['half', 'float'])
def test_mixed_precision_gives_float32_close_to_float32(name, dtype, inputs):
    loss, arguments, learners, _ = inputs_of(name, dtype if inputs == 'half' else torch.float32)
    with torch.autocast('cpu', dtype=dtype):
        terms = terms_of(loss.eval(), arguments)
    terms[0].backward()
    loss, arguments, _, _ = inputs_of(name)
    for term, expected in zip(terms, terms_of(loss.eval(), arguments), strict=True):
        assert term.dtype == torch.float32
        assert term.shape == ()
        assert math.isclose(term.item(), expected.item(), rel_tol=0.05, abs_tol=0.02)
    assert all(side.grad.isfinite().all() for side in learners)


@pytest.mark.parametrize('factor', [0, 1e4])
@pytest.mark.parametrize('name', LOSSES)
def test_extreme_inputs_stay_finite_and_unchanged(name, factor):
    loss, arguments, learners, sources = inputs_of(name, torch.bfloat16, factor)
    before = [side.detach().clone() for side in (*learners, *sources)]
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = sum(terms_of(loss, arguments))
    value.backward()
    assert value.isfinite()
    assert all(side.grad.isfinite().all() for side in (*learners, *loss.parameters()))
    assert all(map(torch.equal, (*learners, *sources), before))


TRUTH = torch.randint(3, (2, 16, 16), generator=torch.Generator().manual_seed(2))
TRUTH[:, :4] = 9
BINARY = TRUTH.clamp_max(1)
LOGITS, BINARY_LOGITS, VECTORS = (2, 3, 4, 6), (2, 1, 4, 6), (4, 3)
MAPS = MAP, (2, 5, 8, 8)


@pytest.mark.parametrize(
    ('name', 'options', 'function', 'shapes', 'third'),
    [
        *(
            (
                'PredictionKLLoss',
                dict(temperature=3.0, direction=direction, scale=scale),
                partial(F.prediction_kl, temperature=3.0, direction=direction, scale=scale),
                [shape, shape],
                (),
            )
            for direction in DIRECTIONS
            for scale in SCALES
            for shape in (VECTORS, BINARY_LOGITS)
        ),
        ('PredictionKLLoss', {}, F.prediction_kl, [VECTORS, VECTORS], ()),
        ('FeatureMSELoss', {}, F.feature_mse, [MAP, MAP], ()),
        ('ChannelWiseLoss', {}, F.channel_wise_kl, [LOGITS, LOGITS], ()),
        (
            'ChannelWiseLoss',
            dict(temperature=1),
            partial(F.channel_wise_kl, temperature=1),
            [BINARY_LOGITS, BINARY_LOGITS],
            (),
        ),
        ('CategorySimilarityLoss', {}, F.category_similarity, [LOGITS, LOGITS], ()),
        (
            'CategorySimilarityLoss',
            dict(temperature=1),
            partial(F.category_similarity, temperature=1),
            [BINARY_LOGITS, BINARY_LOGITS],
            (),
        ),
        ('PixelWiseLoss', {}, F.pixel_wise_divergence, [LOGITS, LOGITS], ()),
        *(
            (
                'PixelWiseLoss',
                dict(reference=reference),
                partial(F.pixel_wise_divergence, reference=reference),
                [shape, shape],
                (),
            )
            for reference in PIXEL_WISE_REFERENCES
            for shape in (LOGITS, BINARY_LOGITS)
        ),
        *(
            ('DISTLoss', options, partial(F.relation_difference, **options), [shape, shape], ())
            for options in ({}, dict(beta=2.0, gamma=0.5, temperature=4.0))
            for shape in (VECTORS, LOGITS, BINARY_LOGITS)
        ),
        *(
            ('DKDLoss', options, partial(F.decoupled_kl, **options), [shape, shape], (truth,))
            for options in ({}, dict(alpha=2.0, beta=0.5, temperature=1.0, ignore_index=9))
            for shape, truth in (
                (VECTORS, torch.tensor([0, 2, 1, 1])),
                (LOGITS, TRUTH.where(TRUTH != 9, options.get('ignore_index', 255))),
                (BINARY_LOGITS, BINARY),
            )
        ),
        *(
            (
                'DetectionPredictionLoss',
                options,
                partial(F.detection_divergence, **options),
                [shape, shape],
                (),
            )
            for shape, options in (
                ((2, 7, 9), dict(num_classes=3)),
                ((2, 15, 9), dict(num_classes=3, temperature=3.0)),
                (
                    (2, 15, 9),
                    dict(
                        num_classes=3,
                        temperature=3.0,
                        direction='source||learner',
                        scale='temperature_squared',
                        box_weight=2.0,
                        box_loss='giou',
                    ),
                ),
            )
        ),
        ('PKDLoss', {}, F.feature_correlation, [MAP, (2, 4, 4, 6)], ()),
        ('PairWiseLoss', {}, F.pair_wise_difference, MAPS, ()),
        *(
            (
                'PairWiseLoss',
                dict(reference=reference, scale=0.25),
                partial(F.pair_wise_difference, reference=reference, scale=0.25),
                MAPS,
                (),
            )
            for reference in PAIR_WISE_REFERENCES
        ),
        ('AttentionTransferLoss', {}, F.attention_difference, MAPS, ()),
        (
            'AttentionTransferLoss',
            dict(exponent=4, reference='paper'),
            partial(F.attention_difference, exponent=4, reference='paper'),
            MAPS,
            (),
        ),
        ('ImportanceMapLoss', {}, F.importance_difference, MAPS, ()),
        (
            'ImportanceMapLoss',
            dict(exponent=2),
            partial(F.importance_difference, exponent=2),
            MAPS,
            (),
        ),
        ('SimilarityPreservingLoss', {}, F.similarity_difference, [MAP, (2, 7)], ()),
        *(
            (name, options, partial(function, **options), MAPS, (truth,))
            for name, function in (
                ('IntraClassVariationLoss', F.intra_class_variation),
                ('RegionAffinityLoss', F.region_affinity),
            )
            for options, truth in (({}, BINARY), (dict(num_classes=3, ignore_index=9), TRUTH))
        ),
    ],
)
def test_loss_equals_its_function(name, options, function, shapes, third):
    sides = tensor(shapes[0], 1), tensor(shapes[1], 2)
    value = build(name, **options)(*sides, *third)
    assert value > 0
    assert torch.equal(value, function(*sides, *third))
    printed = ', '.join(f'{option}={value!r}' for option, value in options.items())
    assert printed in repr(build(name, **options)).replace('\n', '')


@pytest.mark.parametrize(
    ('name', 'function', 'third'),
    [
        ('AttentionTransferLoss', F.attention_difference, ()),
        ('ImportanceMapLoss', F.importance_difference, ()),
        ('SimilarityPreservingLoss', F.similarity_difference, ()),
        ('PKDLoss', F.feature_correlation, ()),
        ('RegionAffinityLoss', F.region_affinity, (BINARY,)),
    ],
)
def test_loss_is_summed_over_pairs_of_taps(name, function, third):
    channels = (4, 4) if name == 'PKDLoss' else (5, 6)  # PKD requires the same of a pair
    pairs = [
        (tensor(MAP, 1), tensor((2, channels[0], 4, 4), 2)),
        (tensor((2, channels[1], 2, 2), 3), tensor(MAP, 4)),
    ]
    learners, sources = zip(*pairs, strict=True)
    loss = build(name)
    expected = sum(function(*pair, *third) for pair in pairs)
    torch.testing.assert_close(loss(list(learners), sources, *third), expected)
    for number in (0, 1):
        with pytest.raises(ValueError, match=f'got {number} of the learner and 2 of the source'):
            loss(learners[:number], sources, *third)


@pytest.mark.parametrize('container', [list, tuple])
def test_pixel_similarity_of_several_taps(container):
    shapes = (2, 8, 4, 4), (2, 4, 8, 8), (2, 1, 16, 16)
    learner, source = (container(tensor(s, seed) for s in shapes) for seed in (1, 2))
    loss = build('PixelSimilarityLoss')
    assert torch.equal(loss(learner, source), F.pixel_similarity(learner, source))
    for taps in (learner[:1], learner[0]):
        with pytest.raises(ValueError, match='two or more maps.*got 1 and 1'):
            loss(taps, taps)
