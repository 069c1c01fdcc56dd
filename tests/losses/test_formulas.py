"""Every loss against its formula: naive loops, torch, torchvision and timm; and the identities between losses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import timm.loss
import torch
import torch.nn.functional as F
from torchvision.ops import sigmoid_focal_loss

from tailwise import LabelStats
from tailwise.losses import create
from tests.losses.conftest import COUNTS, NUM_SAMPLES
from tests.losses.naive import Naive, pair_loss, sigmoid

TOLERANCE = {"rtol": 2e-6, "atol": 1e-9}  # the buffers of a loss are float32


@pytest.fixture
def naive(stats, batch) -> Naive:
    logits, targets = batch
    groups = {name: index.tolist() for name, index in stats.groups.items()}
    return Naive(COUNTS, NUM_SAMPLES, logits.tolist(), targets.tolist(), groups)


def losses(name, stats, batch, **options):
    return create(name, stats, reduction="none", **options)(*batch)


def agrees(actual, table):
    torch.testing.assert_close(actual, torch.tensor(table, dtype=torch.float64), **TOLERANCE)


def test_bce_is_torch_bce(stats, batch):
    logits, targets = batch
    expected = F.binary_cross_entropy_with_logits(logits, targets.double(), reduction="none")
    torch.testing.assert_close(losses("bce", stats, batch), expected)


def test_focal_is_twice_torchvision_focal(stats, batch):
    logits, targets = batch
    expected = 2 * sigmoid_focal_loss(logits, targets.double(), alpha=-1, gamma=2)
    torch.testing.assert_close(losses("focal", stats, batch), expected)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_rw_weights_both_signs_by_inverse_frequency(stats, batch, naive, power):
    expected = naive.table(lambda i, k, z, y: (NUM_SAMPLES / COUNTS[k]) ** power * pair_loss(z, y))
    agrees(losses("rw", stats, batch, power=power), expected)


def test_ldam_shifts_positives_only(stats, batch, naive):
    delta = [0.5 * (min(COUNTS) / n) ** 0.25 for n in COUNTS]
    expected = naive.table(lambda i, k, z, y: pair_loss(z, y, up=(delta[k], 1, 1, 0)))
    agrees(losses("ldam", stats, batch), expected)


@pytest.mark.parametrize("mode", ["mean_effective", "effective_of_mean", "mean_weight", "class"])
@pytest.mark.parametrize("beta", [0.9, 0.99, 1.0])
def test_cb_focal_weights(stats, batch, naive, mode, beta):
    def effective(n):
        return n if beta == 1 else (1 - beta**n) / (1 - beta)

    def weight(i, k):
        counts = [n for n, y in zip(COUNTS, naive.targets[i], strict=True) if y]
        if mode == "class":
            return 1 / effective(COUNTS[k])
        if not counts:
            return 1 / effective(max(COUNTS))
        if mode == "mean_effective":
            return 1 / np.mean([effective(n) for n in counts])
        if mode == "effective_of_mean":
            return 1 / effective(np.mean(counts))
        return np.mean([1 / effective(n) for n in counts])

    expected = naive.table(lambda i, k, z, y: 30 * weight(i, k) * pair_loss(z, y, up=(0, 1, 1, 2), down=(0, 1, 1, 2)))
    agrees(losses("cb-focal", stats, batch, mode=mode, beta=beta, loss_weight=15.0), expected)


@pytest.mark.parametrize(("gamma_pos", "gamma_neg", "margin"), [(0, 4, 0.05), (1, 4, 0.05), (1, 0.5, 0.2), (2, 3, 0)])
def test_asl(stats, batch, naive, gamma_pos, gamma_neg, margin):
    def value(i, k, z, y):
        p = sigmoid(z)
        shifted = max(p - margin, 0)
        negative = -(shifted**gamma_neg) * math.log(1 - shifted) if shifted else 0
        return y * (1 - p) ** gamma_pos * -math.log(p) + (1 - y) * negative

    options = {"gamma_pos": gamma_pos, "gamma_neg": gamma_neg, "margin": margin}
    agrees(losses("asl", stats, batch, **options), naive.table(value))


def value_and_gradient(loss, logits, targets):
    logits = logits.float().requires_grad_()
    value = loss(logits, targets)
    (gradient,) = torch.autograd.grad(value, logits)
    return value.detach(), gradient


def agrees_with_timm(ours, theirs, logits, targets):
    for mine, other in zip(
        value_and_gradient(ours, logits, targets), value_and_gradient(theirs, logits, targets), strict=True
    ):
        torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-7)  # timm computes in float32


@pytest.mark.parametrize("reduction", ["sum", "mean", "batchmean", "none"])
def test_asl_is_timm_asl_at_moderate_logits(stats, batch, reduction):
    logits, targets = batch[0], batch[1].double()
    ours = create("asl", stats, reduction=reduction, gamma_pos=1.0)
    theirs = timm.loss.AsymmetricLossMultiLabel(gamma_neg=4, gamma_pos=1, clip=0.05, reduction=reduction)
    if reduction == "none":
        torch.testing.assert_close(ours(logits, targets).float(), theirs(logits, targets), rtol=2e-5, atol=1e-7)
    else:
        agrees_with_timm(ours, theirs, logits, targets)


@pytest.mark.parametrize(("mu", "neg_scale"), [(0.3, 5.0), (0.2, 2.0)])
@pytest.mark.parametrize("shift", ["published", "paper"])
def test_distribution_balanced_family(stats, batch, naive, mu, neg_scale, shift):
    def v(k):
        return naive.shift(k, 0.05, neg_scale if shift == "published" else 1)

    def weight(i, k):
        return naive.rebalanced(i, k, 0.1, 10, mu)

    def regularized(k, z, y, gamma=0):
        return pair_loss(z, y, up=(v(k), 1, 1, gamma), down=(v(k), neg_scale, neg_scale, gamma))

    regularization = {"neg_scale": neg_scale, "shift": shift}
    agrees(losses("r-bce", stats, batch, mu=mu), naive.table(lambda i, k, z, y: weight(i, k) * pair_loss(z, y)))
    agrees(losses("ntr", stats, batch, **regularization), naive.table(lambda i, k, z, y: regularized(k, z, y)))
    agrees(
        losses("db", stats, batch, mu=mu, **regularization),
        naive.table(lambda i, k, z, y: weight(i, k) * regularized(k, z, y)),
    )
    agrees(
        losses("db-focal", stats, batch, mu=mu, **regularization),
        naive.table(lambda i, k, z, y: 2 * weight(i, k) * regularized(k, z, y, gamma=2)),
    )


@pytest.mark.parametrize(("recipe", "mu", "neg_scale"), [("voc-mlt", 0.3, 5.0), ("coco-mlt", 0.2, 2.0)])
@pytest.mark.parametrize("soft", [False, True])
def test_db_focal_is_timm_distribution_balanced_loss(stats, batch, recipe, mu, neg_scale, soft):
    logits, targets = batch[0], batch[1].double()
    if soft:
        targets = 0.8 * targets + 0.1
    theirs = timm.loss.DistributionBalancedLoss(COUNTS, NUM_SAMPLES, map_mu=mu, neg_scale=neg_scale)
    ours = create("db-focal", stats, recipe=recipe)
    agrees_with_timm(ours, theirs, logits, targets)


@pytest.mark.parametrize("max_exponent", [None, 3.0])
def test_apaf(stats, batch, naive, max_exponent):
    positive, negative = naive.mean_probabilities()

    def exponents(k):
        both = 2 * positive[k] / negative[k], 2 * negative[k] / positive[k]
        return both if max_exponent is None else tuple(min(e, max_exponent) for e in both)

    def value(i, k, z, y):
        up, down = exponents(k)
        return 2 * pair_loss(z, y, up=(0, 1, 1, up), down=(0, 1, 1, down))

    agrees(losses("apaf", stats, batch, max_exponent=max_exponent), naive.table(value))


@pytest.mark.parametrize("focal_on", ["regularized", "plain"])
@pytest.mark.parametrize("rebalance", [True, False])
@pytest.mark.parametrize(
    "adaptive",
    [(), ("neg_slope",), ("pos_slope", "pos_divisor", "neg_divisor"), {"neg_slope": "tail", "pos_divisor": "head"}],
)
def test_pg(stats, batch, naive, focal_on, rebalance, adaptive):
    positive, negative = naive.mean_probabilities()
    group_of = {k: name for name, members in naive.groups.items() for k in members}
    base = {"neg_slope": 5.0, "neg_divisor": 5.0, "pos_slope": 1.5, "pos_divisor": 1.0}
    raised = {"neg_slope": {"tail": 10.0}, "pos_divisor": {"tail": 2.0, "medium": 1.25}}

    def factor(name, k):
        value = raised.get(name, {}).get(group_of[k], base[name])
        ratio = positive[k] / negative[k] if name.startswith("pos") else negative[k] / positive[k]
        follows = name in adaptive and (not isinstance(adaptive, dict) or adaptive[name] == group_of[k])
        return value * ratio if follows else value

    def value(i, k, z, y):
        v = naive.shift(k, 0.05, 5)
        up = (v, factor("pos_slope", k), factor("pos_divisor", k), 2 * positive[k] / negative[k])
        down = (v, factor("neg_slope", k), factor("neg_divisor", k), 2 * negative[k] / positive[k])
        weight = naive.rebalanced(i, k, 0.1, 10, 0.3) if rebalance else 1
        return 2 * weight * pair_loss(z, y, up=up, down=down, plain_focal=focal_on == "plain")

    options = {"neg_scale": 5.0, "mu": 0.3, "pos_slope": 1.5, "adaptive": adaptive, "focal_on": focal_on}
    agrees(losses("pg", stats, batch, rebalance=rebalance, **options, **raised), naive.table(value))


@pytest.mark.parametrize(("margin", "gamma", "height"), [(1.0, 2.0, 1.5), (0.0, 0.0, 1.0), (0.5, 1.0, 2.0)])
def test_hill(stats, batch, naive, margin, gamma, height):
    def value(i, k, z, y):
        p, p_margin = sigmoid(z), sigmoid(z - margin)
        return -y * (1 - p_margin) ** gamma * math.log(p_margin) + (1 - y) * (height - p) * p**2

    options = {"margin": margin, "gamma": gamma, "height": height}
    agrees(losses("hill", stats, batch, **options), naive.table(value))


class TestIdentities:
    def same(self, stats, batch, one, other):
        torch.testing.assert_close(losses(one[0], stats, batch, **one[1]), losses(other[0], stats, batch, **other[1]))

    def test_pr_without_raised_factors_is_ntr(self, stats, batch):
        self.same(stats, batch, ("pr", {"rebalance": False, "neg_scale": 5.0}), ("ntr", {"neg_scale": 5.0}))

    def test_pr_factors_given_as_number_values_and_group_agree(self, stats, batch):
        values = np.full(stats.num_classes, 2.0)
        values[stats.groups["tail"]] = 7.0
        by_group = ("pr", {"neg_slope": {"tail": 7.0}})
        self.same(stats, batch, by_group, ("pr", {"neg_slope": values}))
        self.same(stats, batch, by_group, ("pr", {"neg_slope": torch.from_numpy(values)}))
        self.same(stats, batch, ("pr", {"neg_slope": 2.0}), ("db", {}))

    def test_ntr_with_unit_scale_and_no_shift_is_bce(self, stats, batch):
        self.same(stats, batch, ("ntr", {"neg_scale": 1.0, "kappa": 0.0}), ("bce", {}))

    def test_pg_with_fixed_factors_and_exponent_is_db_focal(self, stats, batch):
        pg = {"adaptive": (), "exponent": "fixed", "base_exponent": 2.0, "neg_scale": 5.0, "mu": 0.3}
        self.same(stats, batch, ("pg", pg), ("db-focal", {"recipe": "voc-mlt"}))

    def test_pg_without_weights_factors_and_shift_is_apaf(self, stats, batch):
        self.same(
            stats, batch, ("pg", {"rebalance": False, "adaptive": (), "neg_scale": 1.0, "kappa": 0.0}), ("apaf", {})
        )

    def test_asl_without_margin_and_equal_exponents_is_half_focal(self, stats, batch):
        asl = losses("asl", stats, batch, gamma_neg=2.0, gamma_pos=2.0, margin=0.0)
        torch.testing.assert_close(2 * asl, losses("focal", stats, batch))

    def test_soft_targets_mix_the_two_sides(self, stats, batch):
        logits, _ = batch
        soft = torch.rand(logits.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        loss = create("ntr", stats, reduction="none")
        positive, negative = loss(logits, torch.ones_like(soft)), loss(logits, torch.zeros_like(soft))
        torch.testing.assert_close(loss(logits, soft), soft * positive + (1 - soft) * negative)


def test_group_fallback_stays_in_the_group():
    # Two tail classes, one absent from the batch; the head class must not lend its probability.
    stats = LabelStats([500, 10, 8], 600)
    logits = torch.tensor([[3.0, 1.0, -1.0], [2.0, -2.0, 0.5]], dtype=torch.float64)
    targets = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.uint8)
    naive = Naive([500, 10, 8], 600, logits.tolist(), targets.tolist(), {"head": [0], "medium": [], "tail": [1, 2]})
    positive, negative = naive.mean_probabilities()
    assert positive[2] == sigmoid(1.0)
    assert negative[0] == positive[0]  # no negative in the batch: the ratio is 1
    actual = create("apaf", stats, reduction="none")(logits, targets)
    expected = naive.table(
        lambda i, k, z, y: (
            2
            * pair_loss(
                z, y, up=(0, 1, 1, 2 * positive[k] / negative[k]), down=(0, 1, 1, 2 * negative[k] / positive[k])
            )
        )
    )
    agrees(actual, expected)
