"""State that follows the training: factors steered by running mean probabilities, and labels that are corrected."""

from __future__ import annotations

import math
from typing import get_args

import torch
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.autograd import is_transforming
from tailwise.losses.formula import Side
from tailwise.losses.statistics import Sync, add_over_processes, group_positions
from tailwise.shapes import Float, Int, Shaped

_EPSILON = 1e-6


def group_log_odds(
    sums: Float[Tensor, "4 C"], group_of_class: Int[Tensor, "C"], num_groups: int
) -> tuple[Float[Tensor, "G"], Float[Tensor, "G"]]:
    """Log-odds of the mean probabilities of each group's positives and negatives.

    A group's mean is that over its classes of their own means, without the classes that have no such pair. A group
    without positives, or without negatives, counts as undecided: both are log-odds 0.

    Args:
        sums: Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) by class, as of :func:`probability_sums`; they may be weighted.
        group_of_class: position of the group of each class.
        num_groups: number of groups G.
    """
    has = sums[1::2] > 0
    means = torch.where(has, sums[0::2] / torch.where(has, sums[1::2], 1.0), 0.0)
    grouped = sums.new_zeros(4, num_groups).index_add(1, group_of_class, torch.cat([means, has.to(sums.dtype)]))
    known = (grouped[2:] > 0).all(0)
    log_odds = torch.logit(grouped[:2] / grouped[2:].clamp(min=1), _EPSILON)
    positive, negative = torch.where(known, log_odds, 0.0)
    return positive, negative


def require_no_transform(follows: bool) -> None:
    """Raise RuntimeError where a loss is to follow its batches under torch.func."""
    if follows and is_transforming():
        raise RuntimeError(
            "a loss with a state follows its batches in place, which torch.func does not take: put it into "
            "evaluation, loss.eval(), where its state stays as it is"
        )


class Correction(nn.Module):
    """Takes negatives of high probability for positives, once enough training samples have been seen.

    "Self-paced loss correction" of Zhang et al., "Simple and Robust Loss Design for Multi-Label Learning with Missing
    Labels", 2021. Samples are counted over all processes, in training only; the count is saved with the module.

    Args:
        threshold: τ: known negatives with σ(z) > τ are corrected.
        start: samples that are seen before.
    """

    seen: Tensor

    def __init__(self, threshold: float, start: int) -> None:
        super().__init__()
        self.threshold, self.start = float(threshold), start
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def observe(self, samples: int, *, sync: bool) -> Tensor:
        """Count the samples of a batch, in training, and return whether its labels are to be corrected."""
        now = self.seen >= self.start
        if self.training and self.start > 0:
            require_no_transform(True)
            count = torch.full_like(self.seen, samples)
            if sync:
                add_over_processes(count)
            self.seen += count
        return now

    def forward(
        self, logits: Float[Tensor, "B C"], labels: Shaped[Tensor, "B C"], now: Tensor
    ) -> Shaped[Tensor, "B C"]:
        """Dense labels of a batch that is to be corrected, or is not."""
        bound = math.log(self.threshold / (1 - self.threshold))
        return labels.masked_fill((labels == 0) & (logits > bound) & now, 1)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}, start={self.start}"


class Steering(nn.Module):
    """Sets the factors of each group from the running mean probabilities p⁺ and p⁻ of its positives and negatives.

    With the separation d = logit p⁺ − logit p⁻ and the level h = (logit p⁺ + logit p⁻)/2 of a group,

        λ₁⁻ = λ + t d, at most ``max_slope``, where d counts as 0 below
        λ₂⁺ = e^{s h/2},  λ₂⁻ = λ₁⁻ e^{−s h/2}, where e^{s h/2} stays within 1/``max_balance`` and ``max_balance``.

    By the first rule a group is strict with negatives until positives and negatives separate, and then more tolerant: a
    steeper λ₁⁻ gives less loss to negatives below the shift. Head, medium and tail classes arrive at
    slopes of their own, the largest where positives and negatives separate fastest. λ₂⁻ follows λ₁⁻, so that a slope
    does not change the weight of negatives. The second rule weighs the sides so that p⁺ and 1 − p⁻ become alike, as
    they are for a classifier that is calibrated for positives and negatives of equal number: too high a level weighs
    positives less and negatives more, which lowers both, and the other way round. λ₁⁺ stays as it is.

    The sums behind the means decay by 1 − 1/``window`` in each training step; they are saved with the module. In
    evaluation they stay as they are. Before anything is seen, d and h are 0.

    Args:
        stats: gives the groups.
        neg_scale: λ, the slope of a group that is not separated.
        tolerance: t; 0 turns the first rule off.
        max_slope: bound of λ₁⁻.
        leveling: s; 0 turns the second rule off.
        max_balance: bound of λ₂⁺, and of λ₁⁻/λ₂⁻.
        window: training steps over which the means run; 1 is the batch alone.
        sync: ``"auto"`` adds the sums of all processes in training when a process group is up; ``"never"`` uses each
            process's own batches.

    Raises:
        ValueError: an option is out of its range.
    """

    group_of_class: Tensor
    running: Tensor

    def __init__(
        self,
        stats: LabelStats,
        *,
        neg_scale: float,
        tolerance: float,
        max_slope: float,
        leveling: float,
        max_balance: float,
        window: float,
        sync: Sync = "auto",
    ) -> None:
        super().__init__()
        require_stats(stats)
        for name, holds, expected, given in (
            ("neg_scale", neg_scale > 0, "positive", neg_scale),
            ("tolerance", tolerance >= 0, "not negative", tolerance),
            ("max_slope", neg_scale <= max_slope < math.inf, "finite, and neg_scale or more", max_slope),
            ("leveling", leveling >= 0, "not negative", leveling),
            ("max_balance", max_balance >= 1, "1 or more", max_balance),
            ("window", window >= 1, "1 or more", window),
            ("sync", sync in get_args(Sync), "'auto' or 'never'", sync),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {given!r}")
        self.neg_scale, self.tolerance, self.max_slope = float(neg_scale), float(tolerance), float(max_slope)
        self.leveling, self.max_balance = float(leveling), float(max_balance)
        self.window, self.sync = float(window), sync
        self.num_groups = len(stats.groups)
        self.register_buffer("group_of_class", group_positions(stats))
        self.register_buffer("running", torch.zeros(4, stats.num_classes, dtype=torch.float32))

    def forward(self, sums: Float[Tensor, "4 C"], positive: Side, negative: Side) -> tuple[Side, Side]:
        """Return the two sides as they are now; ``shift`` must be κ log(N/n − 1), which is divided by λ₁⁻.

        Args:
            sums: Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) over the known pairs of every class of the batch.
            positive: the positive side.
            negative: the negative side.
        """
        self.observe(sums)
        return self.steered(positive, negative)

    def observe(self, sums: Float[Tensor, "4 C"]) -> None:
        """Let the running sums follow those of a batch, in training."""
        require_no_transform(self.training)
        if self.training:
            self.running.lerp_(sums.to(self.running.dtype), 1 / self.window)

    def steered(self, positive: Side, negative: Side) -> tuple[Side, Side]:
        """Return the sides as the running sums have them."""
        high, low = group_log_odds(self.running, self.group_of_class, self.num_groups)
        slope = (self.neg_scale + self.tolerance * (high - low).clamp(min=0)).clamp(max=self.max_slope)
        bound = math.log(self.max_balance)
        divisor = (self.leveling * (high + low) / 4).clamp(-bound, bound).exp()
        slope, divisor = slope[self.group_of_class], divisor[self.group_of_class]
        shift = positive.shift / slope
        return (
            positive._replace(shift=shift, divisor=divisor),
            negative._replace(shift=shift, slope=slope, divisor=slope / divisor),
        )

    def extra_repr(self) -> str:
        return (
            f"neg_scale={self.neg_scale:g}, tolerance={self.tolerance:g}, max_slope={self.max_slope:g}, "
            f"leveling={self.leveling:g}, max_balance={self.max_balance:g}, window={self.window:g}"
        )
