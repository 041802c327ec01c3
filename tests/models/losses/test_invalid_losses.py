"""Invalid options and inputs of the losses, with parts of the expected errors."""

import math

import pytest
import torch

from mmkdml.models.losses import SelfAttentionDiscriminator
from mmkdml.registry import MODELS

ONE = dict(learner_channels=6, source_channels=10)
TWO = dict(learner_channels=[6, 5], source_channels=[10, 12])
SEMCKD = dict(ONE, batch_size=8)
MAP, SOURCE = (4, 6, 8, 8), (4, 10, 8, 8)


def assert_raises(parts, call, *arguments, **options):
    with pytest.raises(ValueError, match='^Invalid ') as caught:
        call(*arguments, **options)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ('name', 'options', 'parts'),
    [
        ('PredictionKLLoss', dict(temperature=0), ['temperature', '0']),
        ('PredictionKLLoss', dict(temperature=math.nan), ['temperature', 'nan']),
        ('PredictionKLLoss', dict(direction='a||b'), ['direction', 'learner||source', "'a||b'"]),
        ('PredictionKLLoss', dict(scale='T^2'), ['scale', 'temperature_squared', "'T^2'"]),
        ('ChannelWiseLoss', dict(temperature=0), ['temperature', '0']),
        ('ChannelWiseLoss', dict(reference='skd'), ['reference', 'cirkd, origin', "'skd'"]),
        ('CategorySimilarityLoss', dict(temperature=-1), ['temperature', '-1']),
        ('PixelWiseLoss', dict(reference='paper'), ['reference', 'cirkd, skd, ifvd', "'paper'"]),
        ('PairWiseLoss', dict(reference='paper'), ['reference', 'cirkd, skd', "'paper'"]),
        ('PairWiseLoss', dict(scale=0), ['scale', '(0, 1]', '0']),
        ('AttentionTransferLoss', dict(exponent=0), ['exponent', '1', '0']),
        ('AttentionTransferLoss', dict(reference='cwd'), ['reference', 'simkd, paper', "'cwd'"]),
        ('ImportanceMapLoss', dict(exponent=0), ['exponent', '1', '0']),
        ('RegionAffinityLoss', dict(num_classes=0), ['num_classes', '2', '0']),
        ('IntraClassVariationLoss', dict(num_classes=1), ['num_classes', '2', '1']),
        ('FocalDiceLoss', dict(loss_name='focal_dice'), ['loss_name', "'focal_dice'"]),
        ('FocalDiceLoss', dict(loss_name='Loss'), ['loss_name', "'Loss'"]),
        ('FocalDiceLoss', dict(loss_name=''), ['loss_name', "''"]),
        ('FocalSmoothDiceLoss', dict(loss_name='emkd'), ['loss_name', "'emkd'"]),
        ('FocalSmoothDiceLoss', dict(reference='paper'), ['reference', 'emkd, origin', "'paper'"]),
        ('HolisticLoss', dict(learner_channels=2, source_channels=3), ['2 from', '3 from']),
        *(
            ('HolisticLoss', dict(learner_channels=2, source_channels=2, **options), parts)
            for options, parts in (
                (dict(kind='gan'), ['kind', 'hinge, wgan-gp', "'gan'"]),
                (dict(penalty_weight=-1), ['penalty_weight', '0', '-1']),
                (dict(discriminator_weight=math.nan), ['discriminator_weight', '0', 'nan']),
                (dict(width=1), ['width', '2', '1']),
            )
        ),
        *(
            ('DKDLoss', {name: value}, [name, str(value)])
            for name, value in (('alpha', -1), ('beta', math.nan), ('temperature', 0))
        ),
        *(
            ('DISTLoss', {name: value}, [name, str(value)])
            for name, value in (('beta', -1), ('gamma', -2), ('temperature', math.inf))
        ),
        *(
            ('DetectionPredictionLoss', {'num_classes': 3, name: value}, [name, str(value)])
            for name, value in (
                ('num_classes', 0),
                ('temperature', 0),
                ('direction', 'a||b'),
                ('scale', 'T^2'),
                ('box_weight', -1),
                ('box_loss', 'iou'),
                ('box_temperature', math.nan),
            )
        ),
        *(
            ('FGDLoss', {**ONE, name: value}, [name, str(value)])
            for name, value in (
                ('temperature', 0),
                ('alpha', -1),
                ('beta', -2),
                ('gamma', math.nan),
                ('lambda_', -3),
            )
        ),
        ('FGDLoss', dict(TWO, source_channels=[10]), ['2 of the learner', '1 of the source']),
        ('LSKDLoss', dict(loss='DKDLoss'), ['LSKDLoss', 'config or module', "'DKDLoss'"]),
        (
            'LSKDLoss',
            dict(loss=dict(type='HolisticLoss'), learner_channels=3, source_channels=3),
            ['LSKDLoss', 'without a discriminator', 'HolisticLoss'],
        ),
        ('MGDLoss', dict(ONE, ratio=1), ['ratio', '[0, 1)', '1']),
        ('MGDLoss', dict(ONE, masked='rows'), ['masked', 'pixels, channels', "'rows'"]),
        ('MGDLoss', TWO, ['MGD', 'one of each side', '[6, 5]', '[10, 12]']),
        ('SRRLLoss', dict(ONE, reference='paper'), ['reference', 'simkd, origin', "'paper'"]),
        ('SRRLLoss', dict(ONE, weight=-1), ['weight', '0', '-1']),
        ('SemCKDLoss', dict(SEMCKD, learner_channels=[]), ['0 of the learner', '1 of the source']),
        ('SemCKDLoss', dict(SEMCKD, source_channels=[]), ['1 of the learner', '0 of the source']),
        ('SemCKDLoss', dict(SEMCKD, softness=0), ['softness', '0']),
        ('SemCKDLoss', dict(SEMCKD, batch_size=3), ['factor', 'batch_size=3', '4']),
        ('SemCKDLoss', dict(SEMCKD, factor=0), ['factor', 'batch_size=8', '0']),
        (
            'VariationalInformationLoss',
            dict(ONE, learner_channels=[6, 6]),
            ['2 of the learner', '1 of the source'],
        ),
        (
            'VariationalInformationLoss',
            dict(learner_channels=[], source_channels=[]),
            ['at least one', '0 of the learner'],
        ),
        ('VariationalInformationLoss', dict(ONE, eps=0), ['eps', '0']),
        (
            'VariationalInformationLoss',
            dict(ONE, initial_variance=1e-5),
            ['initial_variance', 'eps=1e-05', 'got 1e-05'],
        ),
        (
            'VariationalInformationLoss',
            dict(ONE, initial_variance=math.nan),
            ['initial_variance', 'nan'],
        ),
    ],
)
def test_invalid_options_raise(name, options, parts):
    assert_raises(parts, MODELS.get(name), **options)


@pytest.mark.parametrize(
    ('name', 'options', 'learner', 'source', 'parts'),
    [
        ('PredictionKLLoss', {}, (2, 3), (2, 1), ["learner's (2, 3)", "source's (2, 1)"]),
        ('FeatureMSELoss', {}, (2, 3), (2, 1), ["learner's (2, 3)", "source's (2, 1)"]),
        ('ChannelWiseLoss', dict(ONE, reference='origin'), MAP, SOURCE, [str(MAP), str(SOURCE)]),
        ('DISTLoss', {}, (2, 3), (2, 1), ['DIST', '(2, 3)', '(2, 1)']),
        ('LSKDLoss', {}, (4, 2), (4, 2), ['K >= 3', '(4, 2)', 'without standardization']),
        ('LSKDLoss', {}, (2, 1, 4, 4), (2, 1, 4, 4), ['K >= 3', '(2, 1, 4, 4)']),
        ('LSKDLoss', {}, [MAP], [MAP], ['logits', 'several taps', 'predictions']),
        ('MGDLoss', ONE, MAP, (4, 10, 4, 4), ['N, H and W', str(MAP), '(4, 10, 4, 4)']),
        ('MGDLoss', ONE, (4, 6), (4, 10), ['(N, C, H, W)', '(4, 6)', '(4, 10)']),
        ('PKDLoss', {}, MAP, SOURCE, ['PKD', '6 of the learner', '10 of', 'ConvProjector']),
        ('PKDLoss', {}, [MAP] * 2, [MAP] * 3, ['2 of the', '3 of the']),
        ('AttentionTransferLoss', {}, (4, 6), (4, 6), ['(N, C, H, W)', '(4, 6)']),
        ('SimilarityPreservingLoss', {}, (1, 6), (1, 6), ['2 or more', '1 and 1', 'batch_size']),
        *(
            (name, {}, learner, source, [str(learner), str(source)])
            for name in ('FitNetLoss', 'SimKDLoss')
            for learner, source in ((MAP, SOURCE), ((4, 6), MAP))
        ),
        ('SemCKDLoss', dict(TWO, batch_size=8), MAP, [SOURCE] * 2, ['learner', 'expected 2', '1']),
        ('SemCKDLoss', dict(TWO, batch_size=8), [MAP] * 2, [SOURCE] * 3, ['source', '2', '3']),
        ('SemCKDLoss', dict(SEMCKD, batch_size=4), (8, 6, 2, 2), (8, 10, 2, 2), ['=4', 'got 8']),
        ('SemCKDLoss', SEMCKD, (4, 6), SOURCE, ['(4, 6)', '(4, 10, 8, 8)']),
        ('SemCKDLoss', SEMCKD, MAP, (4, 9, 8, 8), ['SemCKD', '(4, 9, 8, 8)']),
        ('SemCKDLoss', SEMCKD, (1, 6, 1, 1), (1, 10, 8, 8), ['batch norm', '(1, 6, 1, 1)']),
        ('VariationalInformationLoss', ONE, [MAP] * 2, [SOURCE] * 2, ['learner', '1', '2']),
        ('VariationalInformationLoss', ONE, MAP, [SOURCE] * 2, ['1 of the', '2 of the']),
        ('VariationalInformationLoss', ONE, (4, 6), (4, 10), ['(4, 6)', '(4, 10)']),
    ],
)
def test_invalid_inputs_raise(name, options, learner, source, parts):
    sides = [
        [torch.ones(one) for one in side] if isinstance(side, list) else torch.ones(side)
        for side in (learner, source)
    ]
    assert_raises(parts, MODELS.build(dict(type=name, **options)), *sides)


def test_srrl_needs_two_values_per_channel_only_in_training():
    loss = MODELS.build(dict(type='SRRLLoss', **ONE))
    classifier = torch.nn.Linear(10, 3)
    arguments = torch.ones(1, 6), torch.ones(1, 10), classifier
    assert_raises(['batch norm', '(1, 6, 1, 1)', 'batch_size'], loss, *arguments)
    assert_raises(['(4, 10)', '(4, 6)'], loss, torch.ones(4, 6), torch.ones(4, 6), classifier)
    assert loss.eval()(*arguments).isfinite()


def test_holistic_sides_must_have_the_same_shape():
    loss = MODELS.build(dict(type='HolisticLoss', learner_channels=2, source_channels=2, width=4))
    sides = torch.zeros(2, 2, 64, 64), torch.zeros(1, 2, 64, 64)
    for call in (loss, loss.discriminator_loss):
        assert_raises(['(2, 2, 64, 64)', '(1, 2, 64, 64)'], call, *sides)


@pytest.mark.parametrize('shape', [(2, 2, 63, 64), (2, 2, 64, 32), (2, 64, 64)])
def test_discriminator_needs_large_maps(shape):
    parts = ['at least 64x64', str(shape), 'larger images']
    assert_raises(parts, SelfAttentionDiscriminator(2, width=4), torch.zeros(shape))


def test_segmentation_labels_are_checked():
    loss = MODELS.build(dict(type='FocalSmoothDiceLoss'))
    parts = ['labels', '[0, 2)', '255', '[0, 2]']
    assert_raises(parts, loss, torch.zeros(1, 1, 1, 2), torch.tensor([[[0, 2]]]))
