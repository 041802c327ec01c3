import torch

from mmkdml.models.weighting import LearnedWeights, WeightedLoss


class Doubling(LearnedWeights):
    """Multiplies losses by 2, 4, ... and records their values."""

    def __init__(self, losses):
        super().__init__(losses)
        self.seen = {}

    def weigh(self, learner, values, member):
        self.seen[learner] = [value.item() for value in values], member
        return 2.0 ** torch.arange(1, 1 + len(values)), torch.tensor(0.5)


def test_losses_of_each_learner_are_multiplied():
    losses = dict(
        a=[WeightedLoss('', 0.1), WeightedLoss('a.loss_from_t.features', 0.3, 'features')],
        b=[WeightedLoss('b.loss_from_a.predictions_2', 0.5, 'predictions')],
    )
    log = {
        't.loss': torch.tensor(7.0),
        'a.decode.loss_ce': torch.tensor([1.0, 3.0]),  # mmengine takes the mean
        'a.aux.loss_ce': [torch.tensor(4.0), torch.tensor(5.0)],
        'a.decode.acc_seg': torch.tensor(50.0),
        'a.loss_from_t.features': torch.tensor(6.0),
        'a.loss_from_t.features.discriminator': torch.tensor(8.0),
        'b.loss': torch.tensor(9.0),
        'b.loss_from_a.predictions_2': torch.tensor(10.0),
    }
    before = {key: str(value) for key, value in log.items()}
    module = Doubling(losses)
    found = module(log, dict(a='member a', b='member b'))
    assert module.seen == dict(a=([11.0, 6.0], 'member a'), b=([10.0], 'member b'))
    expected = {
        't.loss': torch.tensor(7.0),
        'a.decode.loss_ce': torch.tensor([2.0, 6.0]),
        'a.aux.loss_ce': [torch.tensor(8.0), torch.tensor(10.0)],
        'a.decode.acc_seg': torch.tensor(50.0),
        'a.loss_from_t.features': torch.tensor(24.0),
        'a.loss_from_t.features.discriminator': torch.tensor(8.0),
        'b.loss': torch.tensor(9.0),
        'b.loss_from_a.predictions_2': torch.tensor(20.0),
        'a.weight_supervised': torch.tensor(0.2),
        'a.weight_from_t.features': torch.tensor(1.2),
        'b.weight_from_a.predictions_2': torch.tensor(1.0),
        'loss_learned_weights': torch.tensor(1.0),
    }
    assert list(found) == list(expected)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    assert {key: str(value) for key, value in log.items()} == before
