"""Factors that steer themselves: the rules in plain loops, their memory, their limits, and their effect in training."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import create
from tailwise.losses.backends.eager import EAGER
from tailwise.losses.formula import Side
from tailwise.losses.guidance import Steering, group_log_odds
from tests.losses.conftest import COUNTS, NUM_SAMPLES
from tests.losses.naive import Naive, pair_loss, sigmoid

OPTIONS = {"neg_scale": 1.5, "tolerance": 3.0, "max_slope": 7.0, "leveling": 1.5, "max_balance": 1.3, "window": 4.0}


def batches(number: int, scale: float = 2.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(12, 9) logits that tell positives from negatives, with some unknown labels; the middle class has no positive."""
    generator = torch.Generator().manual_seed(number)
    drawn = []
    for _ in range(number):
        targets = (torch.rand(12, 9, generator=generator) < 0.3).to(torch.int8)
        targets[:, 4] = 0
        logits = scale * (torch.randn(12, 9, generator=generator) + 2 * targets - 1)
        unknown = torch.rand(12, 9, generator=generator) < 0.1
        drawn.append((logits, targets.masked_fill(unknown, -1)))
    return drawn


def naive_factors(stats, seen, options=OPTIONS) -> dict[str, list[float]]:
    """λ₁⁻, λ₂⁻ and λ₂⁺ of each class after the batches, in Python floats."""
    neg_scale, tolerance, max_slope, leveling, max_balance, window = options.values()
    decay = 1 - 1 / window
    sums = [[0.0] * 4 for _ in range(stats.num_classes)]
    for logits, targets in seen:
        new = [[0.0] * 4 for _ in range(stats.num_classes)]
        for row, labels in zip(logits.tolist(), targets.tolist(), strict=True):
            for k, (z, y) in enumerate(zip(row, labels, strict=True)):
                if y >= 0:
                    new[k][0 if y else 2] += sigmoid(z)
                    new[k][1 if y else 3] += 1
        sums = [
            [decay * old + (1 - decay) * add for old, add in zip(*pair, strict=True)]
            for pair in zip(sums, new, strict=True)
        ]
    factors: dict[str, list[float]] = {name: [0.0] * stats.num_classes for name in ("slope", "neg", "pos")}
    for members in stats.groups.values():
        up = [sums[k][0] / sums[k][1] for k in members if sums[k][1]]
        down = [sums[k][2] / sums[k][3] for k in members if sums[k][3]]
        high, low = (math.log(sum(side) / len(side) / (1 - sum(side) / len(side))) for side in (up, down))
        slope = min(neg_scale + tolerance * max(high - low, 0), max_slope)
        weight = min(max(math.exp(leveling * (high + low) / 4), 1 / max_balance), max_balance)
        for k in members:
            factors["slope"][k], factors["neg"][k], factors["pos"][k] = slope, slope / weight, weight
    return factors


def test_factors_follow_the_rules(stats):
    steering = Steering(stats, **OPTIONS)
    seen = []
    for logits, targets in batches(6, scale=0.6):
        seen.append((logits, targets))
        shift = torch.linspace(-1, 1, 9)
        sums = EAGER.probability_sums(logits, targets, None)
        positive, negative = steering(sums, Side(shift=shift), Side(shift=shift))
        expected = {name: torch.tensor(values) for name, values in naive_factors(stats, seen).items()}
        torch.testing.assert_close(negative.slope, expected["slope"])
        torch.testing.assert_close(negative.divisor, expected["neg"])
        torch.testing.assert_close(positive.divisor, expected["pos"])
        torch.testing.assert_close(positive.shift, shift / expected["slope"])
        torch.testing.assert_close(negative.shift, positive.shift)
        assert positive.slope == 1
    # The rules were at work, not their bounds alone.
    assert ((negative.slope > 1.5) & (negative.slope < 7)).any()
    assert ((positive.divisor > 1 / 1.3) & (positive.divisor < 1.3)).any()


@pytest.mark.parametrize("recipe", ["voc-mlt", "coco-mlt"])
def test_with_nothing_to_steer_it_is_db(recipe, stats, batch):
    scale = {"voc-mlt": 5.0, "coco-mlt": 2.0}[recipe]
    steered = create("pg-auto", stats, recipe=recipe, neg_scale=scale, tolerance=0.0, leveling=0.0, reduction="none")
    torch.testing.assert_close(steered(*batch), create("db", stats, recipe=recipe, reduction="none")(*batch))


@pytest.mark.parametrize(("recipe", "mu"), [(None, 0.2), ("coco-mlt", 0.2), ("voc-mlt", 0.3)])
def test_defaults_are_those_that_the_documentation_names(recipe, mu, stats):
    """λ = 1, t = 2 up to 20, s = 1 up to 2, a window of 100, and α = .1, β = 10, κ = .05 of DB."""
    options = {"neg_scale": 1, "tolerance": 2, "max_slope": 20, "leveling": 1, "max_balance": 2, "window": 100}
    # By group: told apart beyond the bound of the slope; too high beyond the bound of the balance, and too low; free.
    for head, medium, tail in [((6.5, -5.0), (5.0, 1.0), (1.0, -0.5)), ((6.5, -5.0), (-1.0, -5.0), (1.5, -0.5))]:
        targets = (torch.arange(12)[:, None] + torch.arange(9)) % 3 == 0
        highs, lows = (torch.tensor([head[s]] * 3 + [medium[s]] * 3 + [tail[s]] * 3).double() for s in (0, 1))
        logits = torch.where(targets, highs, lows) + 0.1 * (torch.arange(12)[:, None] % 5 - 2)
        loss = create("pg-auto", stats, recipe=recipe, reduction="none")
        actual = loss(logits, targets)
        factors = naive_factors(stats, [(logits, targets.int())], options)
        naive = Naive(COUNTS, NUM_SAMPLES, logits.tolist(), targets.int().tolist())

        def value(i, k, z, y, factors=factors, naive=naive):
            slope, neg, pos = (factors[name][k] for name in ("slope", "neg", "pos"))
            v = 0.05 / slope * math.log(NUM_SAMPLES / COUNTS[k] - 1)
            return naive.rebalanced(i, k, 0.1, 10, mu) * pair_loss(z, y, up=(v, 1, pos, 0), down=(v, slope, neg, 0))

        assert factors["slope"][0] == 20
        assert factors["pos"][3] in (2, 1 / 2)
        assert 1 < factors["slope"][6] < 20
        assert 1 < factors["pos"][6] < 2
        torch.testing.assert_close(actual, torch.tensor(naive.table(value)).double(), rtol=2e-5, atol=1e-8)
        sums = EAGER.probability_sums(logits, targets, None)
        torch.testing.assert_close(loss.guidance.running.double(), sums / 100, rtol=1e-6, atol=0)


def test_evaluation_uses_what_was_seen_and_adds_nothing(stats):
    loss = create("pg-auto", stats, **OPTIONS)
    first, second = batches(2)
    loss(*first)
    before = copy.deepcopy(loss.state_dict())
    value = loss.eval()(*second)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)
    assert not torch.isclose(value, create("pg-auto", stats, **OPTIONS).eval()(*second))
    loss.train()(*second)
    assert not torch.equal(loss.guidance.running, before["guidance.running"])


def test_restored_loss_goes_on_as_the_saved_one(stats):
    loss = create("pg-auto", stats)
    seen = batches(5)
    for logits, targets in seen[:3]:
        loss(logits, targets)
    restored = create("pg-auto", stats)
    restored.load_state_dict(copy.deepcopy(loss.state_dict()))
    for logits, targets in seen[3:]:
        torch.testing.assert_close(restored(logits, targets), loss(logits, targets), rtol=0, atol=0)


def test_a_window_of_one_step_forgets_the_step_before(stats):
    loss = create("pg-auto", stats, window=1.0)
    first, second = batches(2)
    loss(*first)
    torch.testing.assert_close(loss(*second), create("pg-auto", stats, window=1.0)(*second))


def test_groups_that_lack_a_side_count_as_undecided(stats):
    sums = torch.zeros(4, 9)
    sums[:, stats.groups["head"]] = torch.tensor([1.0, 2.0, 0.4, 2.0])[:, None]
    sums[2:, stats.groups["tail"]] = torch.tensor([0.1, 2.0])[:, None]
    sums[:, stats.groups["head"][0]] = 0  # a class that was never seen is left out of its group
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    positive, negative = group_log_odds(sums, group, 3)
    torch.testing.assert_close(positive, torch.tensor([0.0, 0.0, 0.0]))  # logit ½; the others undecided
    torch.testing.assert_close(negative, torch.tensor([math.log(0.2 / 0.8), 0.0, 0.0]))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("neg_scale", 0.0),
        ("tolerance", -1.0),
        ("max_slope", 0.5),
        ("leveling", -1.0),
        ("max_balance", 0.5),
        ("window", 0.0),
        ("sync", "always"),
    ],
)
def test_options_out_of_range(option, value, stats, unchecked):
    with pytest.raises(ValueError, match=f"{option} must be"):
        create("pg-auto", stats, **{option: value})


def train(leveling: float, seed: int) -> torch.Tensor:
    """Distance of each group's level from 0 at the end of a small training with as many negatives as there are."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(400, 16, generator=generator)
    scores = features @ torch.randn(16, 6, generator=generator)
    scores += torch.randn(400, 6, generator=generator)
    shares = torch.tensor([0.5, 0.4, 0.15, 0.1, 0.04, 0.03])
    targets = torch.stack([(s > s.quantile(1 - share)).int() for s, share in zip(scores.T, shares, strict=True)], 1)
    stats = LabelStats.from_targets(targets)
    loss = create("pg-auto", stats, rebalance=False, leveling=leveling, max_balance=8.0, window=20.0)
    weight = torch.zeros(16, 6, requires_grad=True)
    bias = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=0.9)
    for _ in range(150):
        rows = torch.randint(0, 400, (64,), generator=generator)
        optimizer.zero_grad()
        loss(features[rows] @ weight + bias, targets[rows]).backward()
        optimizer.step()
    guide = loss.guidance
    high, low = group_log_odds(guide.running, guide.group_of_class, guide.num_groups)
    return ((high + low) / 2).abs()


@pytest.mark.parametrize("seed", [0, 1])
def test_weighing_the_sides_brings_rare_groups_to_level(seed):
    free, leveled = train(0.0, seed)[1:], train(2.0, seed)[1:]
    assert (free > 0.3).all()
    assert (leveled < 0.75 * free).all()
