"""The numbers behind names: every default and every recipe against loops with the papers' numbers typed in here.

Nothing of the library's own tables is read, so that a number that changes there does not change here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tailwise import LabelStats
from tailwise.losses import create
from tests.losses.conftest import COUNTS, NUM_SAMPLES, SUMS
from tests.losses.naive import Naive, pair_loss, sigmoid

TAIL = {k for k, n in enumerate(COUNTS) if n < 20}


@dataclass(frozen=True)
class Numbers:
    """α = .1, β = 10 and κ = .05 are the same everywhere."""

    mu: float
    scale: float
    """λ, of both factors of the negative side."""
    cb_beta: float
    cb_weight: float
    neg_slope: float
    tail_neg_slope: float
    pos_slope: float
    tail_pos_divisor: float


NUMBERS = {
    # Wu et al. (2020), supplementary material. How far PG raises its factors is published nowhere: docs/losses.md.
    "voc-mlt": Numbers(0.3, 5, 0.99, 10, neg_slope=5, tail_neg_slope=6, pos_slope=1, tail_pos_divisor=1.5),
    "coco-mlt": Numbers(0.2, 2, 0.9, 10, neg_slope=4, tail_neg_slope=4, pos_slope=2, tail_pos_divisor=1),
    # Without a recipe: COCO-MLT's numbers of DB, no factor raised, no weight of CB.
    None: Numbers(0.2, 2, 0.9, 1, neg_slope=2, tail_neg_slope=2, pos_slope=1, tail_pos_divisor=1),
}


def table_of(name: str, numbers: Numbers, naive: Naive) -> list[list[float]]:
    positive, negative = naive.mean_probabilities()

    def weight(i: int, k: int) -> float:
        return naive.rebalanced(i, k, 0.1, 10, numbers.mu)

    def effective(n: int) -> float:
        return (1 - numbers.cb_beta**n) / (1 - numbers.cb_beta)

    def balanced(i: int) -> float:
        found = [effective(n) for n, y in zip(COUNTS, naive.targets[i], strict=True) if y]
        return 1 / np.mean(found) if found else 1 / effective(max(COUNTS))

    def regularized(k: int, z: float, y: float, gamma: float = 0) -> float:
        v = 0.05 / numbers.scale * math.log(NUM_SAMPLES / COUNTS[k] - 1)
        return pair_loss(z, y, up=(v, 1, 1, gamma), down=(v, numbers.scale, numbers.scale, gamma))

    def guided(k: int, z: float, y: float, is_pg: bool) -> float:
        v = 0.05 / numbers.scale * math.log(NUM_SAMPLES / COUNTS[k] - 1)
        slope = numbers.tail_neg_slope if k in TAIL else numbers.neg_slope
        divisor = numbers.tail_pos_divisor if k in TAIL else 1
        gamma_plus, gamma_minus = 2 * positive[k] / negative[k], 2 * negative[k] / positive[k]
        if not is_pg:
            return pair_loss(z, y, up=(v, numbers.pos_slope, divisor, 0), down=(v, slope, numbers.scale, 0))
        slope *= negative[k] / positive[k]  # λ₁⁻ is adaptive
        up, down = (v, numbers.pos_slope, divisor, gamma_plus), (v, slope, numbers.scale, gamma_minus)
        return 2 * pair_loss(z, y, up=up, down=down)

    def asymmetric(z: float, y: float) -> float:
        shifted = max(sigmoid(z) - 0.05, 0)  # m = .05, γ⁻ = 4, γ⁺ = 0
        return -math.log(sigmoid(z)) if y else shifted**4 * -math.log(1 - shifted)

    def apaf(k: int, z: float, y: float) -> float:
        up, down = 2 * positive[k] / negative[k], 2 * negative[k] / positive[k]
        return 2 * pair_loss(z, y, up=(0, 1, 1, up), down=(0, 1, 1, down))

    focal = {"up": (0, 1, 1, 2), "down": (0, 1, 1, 2)}
    value = {
        "bce": lambda i, k, z, y: pair_loss(z, y),
        "rw": lambda i, k, z, y: math.sqrt(NUM_SAMPLES / COUNTS[k]) * pair_loss(z, y),
        "focal": lambda i, k, z, y: 2 * pair_loss(z, y, **focal),
        "cb-focal": lambda i, k, z, y: numbers.cb_weight * balanced(i) * 2 * pair_loss(z, y, **focal),
        "ldam": lambda i, k, z, y: pair_loss(z, y, up=(0.5 * (min(COUNTS) / COUNTS[k]) ** 0.25, 1, 1, 0)),
        "asl": lambda i, k, z, y: asymmetric(z, y),
        "r-bce": lambda i, k, z, y: weight(i, k) * pair_loss(z, y),
        "ntr": lambda i, k, z, y: regularized(k, z, y),
        "db": lambda i, k, z, y: weight(i, k) * regularized(k, z, y),
        "db-focal": lambda i, k, z, y: 2 * weight(i, k) * regularized(k, z, y, gamma=2),
        "pr": lambda i, k, z, y: weight(i, k) * guided(k, z, y, is_pg=False),
        "apaf": lambda i, k, z, y: apaf(k, z, y),
        "pg": lambda i, k, z, y: weight(i, k) * guided(k, z, y, is_pg=True),
        "hill": lambda i, k, z, y: (
            pair_loss(z, 1, up=(1, 1, 1, 2)) if y else (1.5 - sigmoid(z)) * sigmoid(z) ** 2  # λ = 1.5, m = 1, γ = 2
        ),
        "splc": lambda i, k, z, y: pair_loss(z, y, up=(1, 1, 1, 2), down=(0, 1, 1, 2)),  # nothing corrected at first
        "formula": lambda i, k, z, y: pair_loss(z, y),
    }[name]
    return naive.table(value)


# The loss that steers itself is in test_steering.py.
@pytest.mark.parametrize("name", [name for name in SUMS if name != "pg-auto"])
@pytest.mark.parametrize("recipe", NUMBERS)
def test_names_and_recipes_stand_for_the_published_numbers(name, recipe, stats, batch):
    logits, targets = batch
    naive = Naive(
        COUNTS, NUM_SAMPLES, logits.tolist(), targets.tolist(), {n: m.tolist() for n, m in stats.groups.items()}
    )
    expected = torch.tensor(table_of(name, NUMBERS[recipe], naive), dtype=torch.float64)
    actual = create(name, stats, recipe=recipe, reduction="none")(logits, targets)
    torch.testing.assert_close(actual, expected, rtol=2e-6, atol=1e-9)  # the buffers of a loss are float32


def mean_effective(naive: Naive, i: int) -> float:
    """1 / mean (1 − .9ⁿ)/(1 − .9), over the positives of a sample, or of the largest class if it has none."""
    found = [(1 - 0.9**n) / 0.1 for n, y in zip(COUNTS, naive.targets[i], strict=True) if y]
    return 1 / np.mean(found or [(1 - 0.9 ** max(COUNTS)) / 0.1])


RULES = {
    "rebalanced": ("weight", lambda naive, i, k: naive.rebalanced(i, k, 0.1, 10, 0.2)),
    "inverse-frequency": ("weight", lambda naive, i, k: math.sqrt(NUM_SAMPLES / COUNTS[k])),
    "class-balanced": ("weight", lambda naive, i, k: mean_effective(naive, i)),
    "prior": ("shift", lambda naive, i, k: 0.025 * math.log(NUM_SAMPLES / COUNTS[k] - 1)),
    "margin": ("shift", lambda naive, i, k: 0.5 * (min(COUNTS) / COUNTS[k]) ** 0.25),
}


@pytest.mark.parametrize("rule", RULES)
def test_rules_of_the_formula_have_the_numbers_that_they_show(rule, stats, batch):
    logits, targets = batch
    naive = Naive(COUNTS, NUM_SAMPLES, logits.tolist(), targets.tolist())
    kind, number = RULES[rule]
    if kind == "weight":
        loss = create("formula", stats, weight={"rule": rule}, reduction="none")
        expected = naive.table(lambda i, k, z, y: number(naive, i, k) * pair_loss(z, y))
    else:
        loss = create("formula", stats, pos_shift={"rule": rule}, neg_shift={"rule": rule}, reduction="none")
        expected = naive.table(lambda i, k, z, y: pair_loss(z - number(naive, i, k), y))
    torch.testing.assert_close(loss(logits, targets), torch.tensor(expected, dtype=torch.float64), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("apaf", {}), ("pg", {"rebalance": False, "kappa": 0.0})])
def test_exponents_are_bounded_on_both_sides(name, options):
    """Two classes with ratios of 3 and 1/3, so that γ⁺ = 6 of the one and γ⁻ = 6 of the other meet the bound of 4."""
    stats = LabelStats([50, 50], 100)
    high, low = math.log(0.75 / 0.25), math.log(0.25 / 0.75)  # p = 3/4 and 1/4
    logits = torch.tensor([[high, low], [low, high]], dtype=torch.float64)
    targets = torch.tensor([[1, 1], [0, 0]], dtype=torch.uint8)
    common = {"adaptive": (), "neg_scale": 1.0} if name == "pg" else {}
    exponents = {  # p̄⁺ is 3/4 and 1/4, p̄⁻ is 1/4 and 3/4: γ± = 2 ρ±
        None: ([2 * 3, 2 / 3], [2 / 3, 2 * 3]),
        4.0: ([4, 2 / 3], [2 / 3, 4]),
        0.5: ([0.5, 0.5], [0.5, 0.5]),
    }
    for bound, (up, down) in exponents.items():
        loss = create(name, stats, max_exponent=bound, reduction="none", **common, **options)
        naive = Naive([50, 50], 100, logits.tolist(), targets.tolist())
        expected = naive.table(
            lambda i, k, z, y, up=up, down=down: 2 * pair_loss(z, y, up=(0, 1, 1, up[k]), down=(0, 1, 1, down[k]))
        )
        torch.testing.assert_close(loss(logits, targets), torch.tensor(expected, dtype=torch.float64))
