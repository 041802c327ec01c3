import math

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from mmkdml.functional import focal_and_dice
from mmkdml.functional.segmentation import FOCAL_REFERENCES, focal_and_smooth_dice

CLASSES = [1, 2, 4]  # numbers of logits; one logit stands for two classes
both_losses = pytest.mark.parametrize('loss_terms', [focal_and_dice, focal_and_smooth_dice])


def example(num_logits, shape=(2, 3, 4), ignored=0.2, seed=0, spread=2.0):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape[0], num_logits, *shape[1:], generator=rng, dtype=torch.float64)
    labels = torch.randint(max(num_logits, 2), shape, generator=rng)
    labels[torch.rand(shape, generator=rng) < ignored] = 255
    return logits * spread, labels


def some_weights(labels, dtype=torch.float64):
    return torch.linspace(0.1, 2, labels.numel(), dtype=torch.float64).view_as(labels).to(dtype)


def slow_terms(logits, labels, focusing=2.0, ignore_index=255, weights=None):
    """Compute the focal term, the Dice term of eq. 8 and that of EMKD pixel by pixel."""
    num_logits = logits.shape[1]
    num_classes = max(num_logits, 2)
    focal, counted = 0.0, 0
    overlap, squares, sizes = ([0.0] * num_classes for _ in range(3))
    for n, y, x in (labels != ignore_index).nonzero().tolist():
        label = labels[n, y, x].item()
        z = logits[n, :, y, x].tolist()
        powers = [math.exp(v) for v in ([0.0, *z] if num_logits == 1 else z)]
        p = [power / sum(powers) for power in powers]
        w = 1.0 if weights is None else weights[n, y, x].item()
        focal += w * (1 - p[label]) ** focusing * -math.log(p[label])
        counted += 1
        for k in range(num_classes):
            g = float(label == k)
            overlap[k] += w * p[k] * g
            squares[k] += w * (p[k] ** 2 + g**2)
            sizes[k] += w * (p[k] + g)
    dice = [1 - 2 * o / s for o, s in zip(overlap[1:], squares[1:], strict=True)]
    smooth = 1 - (2 * sum(overlap[1:]) + 1) / (sum(sizes[1:]) + 1)
    return focal / counted, sum(dice) / len(dice), smooth


@pytest.mark.parametrize('focusing', [0, 0.5, 1, 2.0, 3.5])
@pytest.mark.parametrize('num_logits', CLASSES)
def test_matches_explicit_sums(num_logits, focusing):
    logits, labels = example(num_logits)
    for weights in (None, some_weights(labels)):
        focal, dice, smooth = slow_terms(logits, labels, focusing, weights=weights)
        terms = focal_and_dice(logits, labels, focusing, pixel_weights=weights)
        assert [term.shape for term in terms] == [(), ()]
        assert [term.item() for term in terms] == pytest.approx([focal, dice], rel=1e-7)
        for reference in FOCAL_REFERENCES:
            terms = focal_and_smooth_dice(logits, labels, focusing, 255, weights, reference)
            assert [term.shape for term in terms] == [(), ()]
            assert [term.item() for term in terms] == pytest.approx([focal, smooth], rel=1e-9)


@both_losses
@pytest.mark.parametrize('options', [{}, dict(ignore_index=0)])
def test_defaults_and_a_class_as_ignore_index(loss_terms, options):
    logits, labels = example(3, ignored=0 if options else 0.2)
    terms = [term.item() for term in loss_terms(logits, labels, **options)]
    focal, dice, smooth = slow_terms(logits, labels, focusing=2.0, **options)
    expected = [focal, dice if loss_terms is focal_and_dice else smooth]
    assert terms == pytest.approx(expected, rel=1e-7)


def test_closed_form():
    # All probabilities are 1/2; one of four pixels is foreground.
    logits, labels = torch.zeros(1, 1, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    focal, dice = focal_and_dice(logits, labels)
    assert focal.item() == pytest.approx(0.25 * math.log(2))
    assert dice.item() == pytest.approx(1 - 2 * 0.5 / (4 * 0.25 + 1))


@pytest.mark.parametrize('num_logits', CLASSES)
def test_focusing_0_is_cross_entropy(num_logits):
    logits, labels = example(num_logits)
    focal, _ = focal_and_dice(logits, labels, focusing=0)
    if num_logits == 1:
        kept = labels != 255
        expected = F.binary_cross_entropy_with_logits(
            logits.squeeze(1)[kept], labels[kept].to(logits.dtype)
        )
    else:
        expected = F.cross_entropy(logits, labels, ignore_index=255)
    torch.testing.assert_close(focal, expected)


@pytest.mark.parametrize('num_logits', [1, 2])
def test_focal_matches_smp(num_logits):
    logits, labels = example(num_logits)
    focal, _ = focal_and_dice(logits, labels, focusing=2.0)
    # smp's binary loss expects the difference of foreground and background logits.
    z = logits if num_logits == 1 else logits[:, 1:] - logits[:, :1]
    reference = smp.losses.FocalLoss('binary', gamma=2.0, ignore_index=255)(z, labels.unsqueeze(1))
    torch.testing.assert_close(focal, reference, check_dtype=False)


@pytest.mark.parametrize('num_logits', CLASSES)
def test_dice_of_hard_predictions_matches_smp(num_logits):
    # smp's Dice is not squared, which is the same for probabilities of 0 and 1.
    logits, labels = example(num_logits, shape=(3, 8, 8), ignored=0)
    if num_logits == 1:
        hard = logits.sign() * 1e4
        reference = smp.losses.DiceLoss('binary')(hard, labels.unsqueeze(1))
    else:
        hard = F.one_hot(logits.argmax(1), num_logits).movedim(-1, 1) * 1e4
        foreground = list(range(1, num_logits))
        reference = smp.losses.DiceLoss('multiclass', classes=foreground)(hard, labels)
    _, dice = focal_and_dice(hard.double(), labels)
    assert 0.1 < dice < 0.9
    torch.testing.assert_close(dice, reference, check_dtype=False)


@both_losses
def test_one_logit_equals_two_classes(loss_terms):
    logits, labels = example(1)
    two = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(loss_terms(logits, labels), loss_terms(two, labels))


@both_losses
def test_invariant_to_an_offset_per_pixel(loss_terms):
    logits, labels = example(4)
    shift = torch.linspace(-50, 50, labels.numel(), dtype=torch.float64).view_as(labels)
    torch.testing.assert_close(
        loss_terms(logits + shift.unsqueeze(1), labels), loss_terms(logits, labels)
    )


@both_losses
def test_invariant_to_order_of_samples_pixels_and_foreground_classes(loss_terms):
    logits, labels = example(4)
    expected = loss_terms(logits, labels)
    torch.testing.assert_close(loss_terms(logits.flip(0), labels.flip(0)), expected)
    torch.testing.assert_close(loss_terms(logits.flip(2, 3), labels.flip(1, 2)), expected)
    swapped = torch.where(labels == 1, 3, torch.where(labels == 3, 1, labels))
    torch.testing.assert_close(loss_terms(logits[:, [0, 3, 2, 1]], swapped), expected)


@both_losses
@pytest.mark.parametrize('num_logits', CLASSES)
def test_ignored_pixels_have_no_influence(loss_terms, num_logits):
    logits, labels = example(num_logits, shape=(1, 2, 6), ignored=0)
    cut = loss_terms(logits[..., :4], labels[..., :4])
    labels[..., 4:] = 99
    full = logits.clone().requires_grad_()
    terms = loss_terms(full, labels, ignore_index=99)
    torch.testing.assert_close(terms, cut)
    sum(terms).backward()
    assert (full.grad[..., 4:] == 0).all()
    assert (full.grad[..., :4] != 0).all()


@both_losses
@pytest.mark.parametrize('num_logits', CLASSES)
def test_all_pixels_ignored_gives_zero_and_zero_gradient(loss_terms, num_logits):
    logits, labels = example(num_logits)
    logits.requires_grad_()
    terms = loss_terms(logits, torch.full_like(labels, 255))
    assert [term.item() for term in terms] == [0, 0]
    sum(terms).backward()
    assert (logits.grad == 0).all()


@both_losses
def test_pixel_weights_of_one_and_zero(loss_terms):
    logits, labels = example(2, ignored=0)
    ones = torch.ones(labels.shape)
    torch.testing.assert_close(
        loss_terms(logits, labels, pixel_weights=ones), loss_terms(logits, labels)
    )
    ones[:, :, 2:] = 0
    weighted = loss_terms(logits, labels, pixel_weights=ones)
    cut = loss_terms(logits[..., :2], labels[..., :2])
    torch.testing.assert_close(weighted[1], cut[1])
    # The focal term remains a mean over all pixels that are not ignored.
    torch.testing.assert_close(weighted[0], cut[0] / 2)


@pytest.mark.parametrize('num_logits', CLASSES)
def test_perfect_prediction(num_logits):
    _, labels = example(num_logits, ignored=0, shape=(2, 4, 4))
    labels[0, 0, :] = torch.arange(4) % max(num_logits, 2)  # every class occurs
    sure = 100.0 * (
        2 * labels.unsqueeze(1) - 1
        if num_logits == 1
        else F.one_hot(labels, num_logits).movedim(-1, 1)
    )
    focal, dice = focal_and_dice(sure, labels)
    assert focal.item() == 0
    assert dice.item() == pytest.approx(0, abs=1e-6)
    # The opposite of a perfect prediction.
    _, dice = focal_and_dice(-sure, labels)
    assert dice.item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('num_logits', [1, 2])
def test_empty_and_full_masks(num_logits):
    def terms(z, label):
        logits = torch.full((2, 1, 3, 3), float(z), dtype=torch.float64)
        if num_logits == 2:
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        return [t.item() for t in focal_and_dice(logits, torch.full((2, 3, 3), label))]

    p = 1 / (1 + math.exp(1.0))  # foreground probability at z = -1
    assert terms(-1, 0) == pytest.approx([p**2 * -math.log(1 - p), 1], rel=1e-6)
    assert terms(-1, 1) == pytest.approx(
        [(1 - p) ** 2 * -math.log(p), 1 - 2 * p / (p**2 + 1)], rel=1e-6
    )
    # Correct predictions of empty and full masks have no loss.
    assert terms(-100, 0) == pytest.approx([0, 0], abs=1e-9)
    assert terms(100, 1) == pytest.approx([0, 0], abs=1e-9)


@both_losses
def test_dice_is_computed_over_the_batch(loss_terms):
    logits, labels = example(1, ignored=0)
    tiled = torch.cat([*logits.unsqueeze(1)], dim=-1), torch.cat([*labels.unsqueeze(1)], dim=-1)
    torch.testing.assert_close(loss_terms(logits, labels), loss_terms(*tiled))


@both_losses
@pytest.mark.parametrize('num_logits', [1, 3])
def test_total_of_partial_batches_gives_terms_of_the_full_batch(loss_terms, num_logits):
    logits, labels = example(num_logits, shape=(5, 3, 4))
    sums = []
    for part in (slice(2), slice(2, 5)):
        loss_terms(logits[part], labels[part], total=lambda own: (sums.append(own), own)[1])
    # The gradient is that of this part of the batch.
    found = logits[:2].clone().requires_grad_()
    focal, dice = loss_terms(found, labels[:2], total=lambda own: own + sums[1])
    full = logits.clone().requires_grad_()
    expected = loss_terms(full, labels)
    torch.testing.assert_close((focal, dice), expected)
    (focal + 2 * dice).backward()
    (expected[0] + 2 * expected[1]).backward()
    torch.testing.assert_close(found.grad, full.grad[:2])


@both_losses
@pytest.mark.parametrize('dtype', [torch.float16, torch.float32])
@pytest.mark.parametrize('num_logits', CLASSES)
def test_extreme_logits_stay_finite(loss_terms, num_logits, dtype):
    values = torch.tensor([1e4, -1e4, 40.0, -40.0, 1e-4, 0.0])
    signs = torch.tensor([1.0, -1.0, 0.5, 0.0])[:num_logits].view(1, num_logits, 1, 1)
    logits = (values.view(1, 1, 1, 6) * signs).expand(1, -1, 2, -1).to(dtype).clone()
    labels = torch.tensor([[[0] * 6, [1] * 6]])
    for focusing in (0, 0.5, 1, 2.0):
        logits = logits.detach().requires_grad_()
        focal, dice = loss_terms(logits, labels, focusing)
        (focal + dice).backward()
        assert 100 < focal < 2e4
        assert 0 <= dice <= 1
        assert logits.grad.isfinite().all()


@both_losses
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_weights_are_computed_in_float32(loss_terms, dtype):
    logits, labels = example(2)
    weights = some_weights(labels, dtype)
    terms = loss_terms(logits.float(), labels, pixel_weights=weights)
    expected = loss_terms(logits.float(), labels, pixel_weights=weights.float())
    assert all(map(torch.equal, terms, expected))


@both_losses
def test_byte_labels_are_supported(loss_terms):
    logits, labels = example(4)
    torch.testing.assert_close(
        loss_terms(logits, labels.to(torch.uint8)), loss_terms(logits, labels)
    )


@pytest.mark.parametrize('num_logits', [1, 2])
def test_smooth_dice_matches_smp(num_logits):
    logits, labels = example(num_logits, ignored=0)
    z = logits if num_logits == 1 else logits[:, 1:] - logits[:, :1]
    # smp computes (overlap + smooth) / (sizes / 2 + smooth).
    reference = smp.losses.DiceLoss('binary', smooth=0.5)(z, labels.unsqueeze(1))
    torch.testing.assert_close(focal_and_smooth_dice(logits, labels)[1], reference)


def test_smooth_dice_closed_form():
    # All probabilities are 1/2, one of four pixels is foreground: overlap 1/2, sizes 2 + 1.
    logits, labels = torch.zeros(1, 1, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    assert focal_and_smooth_dice(logits, labels)[1].item() == pytest.approx(1 - 2 / 4)
    # Three classes at 1/3; both foreground classes share one sum: 1 - (2 / 3 + 1) / (8 / 3 + 2).
    value = focal_and_smooth_dice(torch.zeros(1, 3, 2, 2), labels)[1].item()
    assert value == pytest.approx(1 - (2 / 3 + 1) / (8 / 3 + 1 + 1))


@pytest.mark.parametrize('num_logits', [1, 2])
@pytest.mark.parametrize(
    ('z', 'label', 'expected'),
    [
        (-100, 0, 0),
        (100, 1, 0),
        (100, 0, 1 - 1 / 19),  # all 18 pixels predicted, none true
        (-100, 1, 1 - 1 / 19),
        (0, 0, 1 - 1 / 10),
    ],
)
def test_smooth_dice_of_empty_and_full_masks(num_logits, z, label, expected):
    logits = torch.full((2, 1, 3, 3), float(z), dtype=torch.float64)
    if num_logits == 2:
        logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
    logits.requires_grad_()
    focal, dice = focal_and_smooth_dice(logits, torch.full((2, 3, 3), label))
    assert dice.item() == pytest.approx(expected, abs=1e-9)
    (focal + dice).backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize('num_logits', [2, 4])
def test_focal_weight_is_constant_in_the_gradient_only_in_emkd(num_logits):
    logits, labels = example(num_logits, ignored=0)
    truth = F.one_hot(labels, num_logits).movedim(-1, 1)
    p = logits.softmax(dim=1)
    p_true = (p * truth).sum(dim=1, keepdim=True)
    entropy_gradient = (p - truth) / labels.numel()  # gradient of the mean of -log p_t
    expected = {
        'emkd': (1 - p_true) ** 2 * entropy_gradient,
        # d/dp_t of -(1 - p_t)^2 log(p_t), times dp_t/dz = -p_t * entropy_gradient.
        'origin': ((1 - p_true) ** 2 - 2 * (1 - p_true) * p_true * p_true.log()) * entropy_gradient,
    }
    for reference, gradient in expected.items():
        z = logits.clone().requires_grad_()
        focal_and_smooth_dice(z, labels, reference=reference)[0].backward()
        torch.testing.assert_close(z.grad, gradient)
