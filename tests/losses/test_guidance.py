"""The four factors move the mean probabilities as Table 1 of PG says, in a small deterministic training run.

The table speaks of DB-Focal with class-aware sampling. The run has the same loss, sampling and optimiser, on features
that batch normalisation centres; the head has no bias, because in a model this small a bias alone would follow the
weight of either side. The directions are those of the rising part of the training, before the factors saturate.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tailwise import LabelStats
from tailwise.losses import create
from tailwise.losses.backends.eager import EAGER
from tailwise.losses.guidance import group_means, mean_probabilities

SEEDS = (0, 1, 2)
STEPS = 90
CLASSES = 8


def train(seed: int, **factors: float) -> torch.Tensor:
    """Mean positive and mean negative probability over the training set at the end of a short training run."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(600, 24, generator=generator)
    scores = features @ torch.randn(24, CLASSES, generator=generator) / 24**0.5
    scores += 0.1 * torch.randn(600, CLASSES, generator=generator)
    targets = (scores > scores.quantile(0.9, dim=0)).to(torch.uint8)
    images_of_class = [targets[:, k].nonzero()[:, 0] for k in range(CLASSES)]

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(24, 64), nn.BatchNorm1d(64), nn.Linear(64, CLASSES, bias=False))
        nn.init.normal_(model[-1].weight, 0, 0.01)
    loss = create(
        "pg",
        LabelStats.from_targets(targets),
        rebalance=False,
        neg_scale=5.0,
        exponent="fixed",
        adaptive=(),
        **factors,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-4)
    for _ in range(STEPS):
        classes = torch.randint(0, CLASSES, (32,), generator=generator).tolist()
        chosen = [
            images_of_class[k][torch.randint(0, len(images_of_class[k]), (), generator=generator)] for k in classes
        ]
        batch = torch.stack(chosen)
        optimizer.zero_grad()
        loss(model(features[batch]), targets[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        sums = EAGER.probability_sums(model(features), targets, None)
    group = torch.zeros(CLASSES, dtype=torch.int64)
    mean = mean_probabilities(sums, group, group_means(sums[:2], group, 1))
    return torch.stack([mean.positive.mean(), mean.negative.mean()])


@pytest.fixture(scope="module")
def base() -> torch.Tensor:
    return torch.stack([train(seed) for seed in SEEDS])


@pytest.mark.parametrize(
    ("factor", "doubled", "positive_direction", "negative_direction"),
    [("pos_slope", 2.0, 1, -1), ("pos_divisor", 2.0, -1, 1), ("neg_slope", 10.0, -1, -1), ("neg_divisor", 10.0, 1, -1)],
)
def test_a_raised_factor_moves_the_probabilities_as_table_1_says(
    base, factor, doubled, positive_direction, negative_direction
):
    change = (torch.stack([train(seed, **{factor: doubled}) for seed in SEEDS]) - base).mean(0)
    assert change[0] * positive_direction > 1e-3
    assert change[1] * negative_direction > 1e-4


def test_class_without_positive_takes_the_mean_of_its_group():
    logits = torch.tensor([[2.0, -1.0, 0.3, 1.0], [0.5, -2.0, 0.1, -3.0]])
    targets = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]])
    group = torch.tensor([0, 1, 1, 2])
    p = torch.sigmoid(logits)
    sums = EAGER.probability_sums(logits, targets, None)
    positive, negative = mean_probabilities(sums, group, group_means(sums[:2], group, 3))
    torch.testing.assert_close(positive, torch.stack([p[:, 0].mean(), p[1, 1], p[1, 1], p[:, 3].mean()]))
    torch.testing.assert_close(negative, torch.stack([p[:, 0].mean(), p[0, 1], p[:, 2].mean(), p[:, 3].mean()]))
