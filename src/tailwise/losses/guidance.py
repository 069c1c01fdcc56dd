"""Parameters that follow the predictions: factors guided by each batch or by running means, and label correction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tailwise.labels import LabelStats
from tailwise.losses.autograd import is_transforming
from tailwise.losses.formula import Side
from tailwise.shapes import Float, Int, Shaped

FactorName: TypeAlias = Literal["neg_slope", "neg_divisor", "pos_slope", "pos_divisor"]
GUIDED_FACTORS: tuple[FactorName, ...] = get_args(FactorName)
Sync: TypeAlias = Literal["auto", "never"]
Adaptive: TypeAlias = FactorName | Iterable[FactorName] | Mapping[FactorName, str | Iterable[str]]

ALL = slice(None)
"""All classes."""
_FLOOR = 1e-12
_EPSILON = 1e-6


class MeanProbabilities(NamedTuple):
    """Mean predicted probability of each class over the batch's positives and negatives, both (C,)."""

    positive: Tensor
    negative: Tensor


class GroupMeans(NamedTuple):
    """The p̄⁺ of classes without a positive, by group, both (G,)."""

    mean: Tensor
    """Mean p̄⁺ over the classes of the group that have a positive."""
    has_positive: Tensor
    """Whether there is such a class."""


def group_means(positive_sums: Float[Tensor, "2 C"], group_of_class: Int[Tensor, "C"], num_groups: int) -> GroupMeans:
    """Mean p̄⁺ of each group, from Σ p y and Σ y of each class (PG, eq. 7)."""
    positive_sum, positives = positive_sums
    has_positive = positives > 0
    own = torch.where(has_positive, positive_sum / positives.clamp(min=_FLOOR), 0.0)
    grouped = positive_sums.new_zeros(2, num_groups)
    grouped = grouped.index_add(1, group_of_class, torch.stack([own, has_positive.to(own.dtype)]))
    return GroupMeans(grouped[0] / grouped[1].clamp(min=1), grouped[1] > 0)


def mean_probabilities(
    sums: Float[Tensor, "4 C"], group_of_class: Int[Tensor, "C"], groups: GroupMeans
) -> MeanProbabilities:
    """Mean probabilities p̄⁺ and p̄⁻ of each class (PG, eq. 6 and 7).

    A class without a positive in the batch takes the mean p̄⁺ of the classes of its group that have one; if none
    has, its own p̄⁻. A class without a negative takes its p̄⁺ as p̄⁻.
    """
    positive_sum, positives, negative_sum, negatives = sums
    has_positive, has_negative = positives > 0, negatives > 0
    negative = torch.where(has_negative, negative_sum / negatives.clamp(min=_FLOOR), 0.5)
    own = positive_sum / positives.clamp(min=_FLOOR)
    replacement = torch.where(groups.has_positive[group_of_class], groups.mean[group_of_class], negative)
    positive = torch.where(has_positive, own, replacement)
    return MeanProbabilities(positive, torch.where(has_negative, negative, positive))


class _GroupGuidance(nn.Module):
    """The groups of the classes, and the sums of all processes."""

    group_of_class: Tensor

    def __init__(self, stats: LabelStats, sync: Sync) -> None:
        super().__init__()
        if sync not in get_args(Sync):
            raise ValueError(f"sync must be 'auto' or 'never', got {sync!r}")
        self.sync, self.num_groups = sync, len(stats.groups)
        owner = np.zeros(stats.num_classes, dtype=np.int64)
        for position, members in enumerate(stats.groups.values()):
            owner[members] = position
        self.register_buffer("group_of_class", torch.from_numpy(owner))

    def shared(self, sums: Tensor) -> Tensor:
        """Add sums of a batch over all processes in place, in training, unless each process uses its own."""
        if self.training and self.sync == "auto":
            add_over_processes(sums)
        return sums


class Guidance(_GroupGuidance):
    """Adapts factors and focal exponents to the batch (PG, eq. 8 to 10).

    With the ratio ρ⁺ = p̄⁺/p̄⁻ on the positive side and ρ⁻ = p̄⁻/p̄⁺ on the negative one, an adaptive factor is
    multiplied by its side's ρ, and the exponents are γ± = λ₀ ρ±, at most ``max_exponent``.

    Args:
        stats: gives the groups whose mean replaces a class without a positive.
        adaptive: factors that follow the batch ratio: names, for all classes, or a mapping from a name to the group
            or groups whose classes do.
        base_exponent: λ₀; None leaves the exponents as they are.
        max_exponent: upper bound of the exponents.
        sync: ``"auto"`` adds the sums of all processes in training when a process group is up, so that the result
            equals one process with the whole batch; ``"never"`` uses each process's own batch.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        adaptive: Adaptive = (),
        base_exponent: float | None = None,
        max_exponent: float | None = None,
        sync: Sync = "auto",
    ) -> None:
        super().__init__(stats, sync)
        if base_exponent is not None and base_exponent < 0:
            raise ValueError(f"base_exponent must not be negative, got {base_exponent}")
        if max_exponent is not None and max_exponent < 0:
            raise ValueError(f"max_exponent must not be negative, got {max_exponent}")
        self.base_exponent, self.max_exponent = base_exponent, max_exponent
        self.adaptive = _adaptive_groups(adaptive, stats)
        for name, groups in self.adaptive.items():
            if groups is not None:
                follows = torch.zeros(stats.num_classes, dtype=torch.bool)
                for group in groups:
                    follows[torch.from_numpy(stats.groups[group])] = True
                self.register_buffer(f"{name}_follows", follows)

    def forward(
        self,
        sums: Float[Tensor, "4 c"],
        positive: Side,
        negative: Side,
        classes: slice = ALL,
        groups: GroupMeans | None = None,
    ) -> tuple[Side, Side]:
        """Return the two sides for this batch.

        Args:
            sums: Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) over the known pairs of each class.
            positive: the positive side.
            negative: the negative side.
            classes: the classes of ``sums``, if not all.
            groups: the means of the groups, if ``sums`` does not have all classes.
        """
        if groups is None:
            groups = self.group_means(sums[:2])
        mean = mean_probabilities(sums, self.group_of_class[classes], groups)
        # A floor under both, so that no ratio is infinite and no divisor 0.
        high, low = mean.positive.clamp(min=_FLOOR), mean.negative.clamp(min=_FLOOR)
        return self._guided(positive, high / low, "pos", classes), self._guided(negative, low / high, "neg", classes)

    def settled(
        self, sums: Float[Tensor, "4 c"], positive: Side, negative: Side, classes: slice = ALL
    ) -> tuple[Side, Side]:
        """The two sides at sums over the whole training set, where every class that is trained has a positive."""
        nothing = sums.new_zeros(self.num_groups)
        groups = GroupMeans(nothing, nothing > 0)
        sides: tuple[Side, Side] = self(sums, positive, negative, classes, groups)
        return sides

    def group_means(self, positive_sums: Float[Tensor, "2 C"]) -> GroupMeans:
        """The p̄⁺ of classes without a positive, from Σ p y and Σ y of every class."""
        return group_means(positive_sums, self.group_of_class, self.num_groups)

    def _guided(self, side: Side, ratio: Tensor, prefix: Literal["pos", "neg"], classes: slice) -> Side:
        changes: dict[str, Any] = {}
        for field in ("slope", "divisor"):
            name = f"{prefix}_{field}"
            if name in self.adaptive:
                factor = getattr(side, field)
                follows = getattr(self, f"{name}_follows", None)
                changes[field] = factor * (ratio if follows is None else torch.where(follows[classes], ratio, 1.0))
        if self.base_exponent is not None:
            exponent = self.base_exponent * ratio
            changes["exponent"] = exponent if self.max_exponent is None else exponent.clamp(max=self.max_exponent)
        return side._replace(**changes)

    def extra_repr(self) -> str:
        adaptive = {name: groups or "all" for name, groups in self.adaptive.items()}
        return f"adaptive={adaptive}, base_exponent={self.base_exponent}, max_exponent={self.max_exponent}"


def guided(stats: LabelStats, **options: Any) -> Guidance | None:
    """Guidance, or None if no parameter follows it."""
    guidance = Guidance(stats, **options)
    return guidance if guidance.adaptive or guidance.base_exponent is not None else None


def _adaptive_groups(adaptive: Adaptive, stats: LabelStats) -> dict[str, tuple[str, ...] | None]:
    """Groups by adaptive factor; None stands for all classes."""
    names = (adaptive,) if isinstance(adaptive, str) else adaptive
    named: dict[Any, Any] = {**names} if isinstance(names, Mapping) else dict.fromkeys(names)
    resolved: dict[str, tuple[str, ...] | None] = {}
    for name, groups in named.items():
        if name not in GUIDED_FACTORS:
            raise ValueError(f"adaptive names {name!r}; it can name {', '.join(GUIDED_FACTORS)}")
        chosen = None if groups is None else (groups,) if isinstance(groups, str) else tuple(groups)
        for group in chosen or ():
            if group not in stats.groups:
                raise ValueError(f"adaptive {name} names the group {group!r}; there are {', '.join(stats.groups)}")
        resolved[name] = chosen
    return resolved


class Steering(_GroupGuidance):
    """Sets the factors of each group from the running mean probabilities p⁺ and p⁻ of its positives and negatives.

    With the separation d = logit p⁺ − logit p⁻ and the level h = (logit p⁺ + logit p⁻)/2 of a group,

        λ₁⁻ = λ + t d, at most ``max_slope``, where d counts as 0 below
        λ₂⁺ = e^{s h/2},  λ₂⁻ = λ₁⁻ e^{−s h/2}, where e^{s h/2} stays within 1/``max_balance`` and ``max_balance``.

    By the first rule a group tolerates no negatives until positives and negatives separate, and then more: a
    steeper λ₁⁻ gives less loss to negatives below the shift. Head, medium and tail classes reach
    different slopes, the largest where positives and negatives separate fastest. λ₂⁻ follows λ₁⁻, so that a slope
    does not change the weight of negatives. The second rule weighs the sides so that p⁺ and 1 − p⁻ become equal, as
    for a classifier that is calibrated for equally many positives and negatives: too high a level weighs positives less
    and negatives more, which lowers both; too low a level does the opposite. λ₁⁺ does not change.

    The sums behind the means decay by 1 − 1/``window`` in each training step; they are saved with the module. In
    evaluation they do not change. Before the first training step, d and h are 0.

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
        super().__init__(stats, sync)
        for name, holds, expected, given in (
            ("neg_scale", neg_scale > 0, "positive", neg_scale),
            ("tolerance", tolerance >= 0, "not negative", tolerance),
            ("max_slope", neg_scale <= max_slope < math.inf, "finite, and neg_scale or more", max_slope),
            ("leveling", leveling >= 0, "not negative", leveling),
            ("max_balance", max_balance >= 1, "1 or more", max_balance),
            ("window", window >= 1, "1 or more", window),
        ):
            if not holds:
                raise ValueError(f"{name} must be {expected}, got {given!r}")
        self.neg_scale, self.tolerance, self.max_slope = float(neg_scale), float(tolerance), float(max_slope)
        self.leveling, self.max_balance = float(leveling), float(max_balance)
        self.window = float(window)
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
        """Update the running sums with those of a batch, in training."""
        require_no_transform(self.training)
        if self.training:
            self.running.lerp_(sums.to(self.running.dtype), 1 / self.window)

    def settled(
        self, sums: Float[Tensor, "4 C"], positive: Side, negative: Side, _classes: slice = ALL
    ) -> tuple[Side, Side]:
        """The two sides at sums over the whole training set, which replace the running ones; for all classes."""
        self.running.copy_(sums)
        return self.steered(positive, negative)

    def steered(self, positive: Side, negative: Side) -> tuple[Side, Side]:
        """Return the sides by the running sums."""
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


class Correction(nn.Module):
    """Relabels negatives of high probability as positives, once enough training samples have been seen.

    "Self-paced loss correction" of Zhang et al., "Simple and Robust Loss Design for Multi-Label Learning with Missing
    Labels", 2021. Samples are counted over all processes, in training only; the count is saved with the module.

    Args:
        threshold: τ: known negatives with σ(z) > τ are corrected.
        start: number of samples without correction at the beginning.
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
        """Dense labels of a batch, corrected where ``now`` is true."""
        bound = math.log(self.threshold / (1 - self.threshold))
        return labels.masked_fill((labels == 0) & (logits > bound) & now, 1)

    def extra_repr(self) -> str:
        return f"threshold={self.threshold:g}, start={self.start}"


def group_log_odds(
    sums: Float[Tensor, "4 C"], group_of_class: Int[Tensor, "C"], num_groups: int
) -> tuple[Float[Tensor, "G"], Float[Tensor, "G"]]:
    """Log-odds of the mean probabilities of each group's positives and negatives.

    A group's mean is the mean of its classes' means, without the classes that have no such pair. A group
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
    """Raise RuntimeError if a loss would update its state under torch.func."""
    if follows and is_transforming():
        raise RuntimeError(
            "a loss with a state updates it in place, which torch.func does not support: put it into "
            "evaluation, loss.eval(), where its state does not change"
        )


def add_over_processes(sums: Tensor) -> int:
    """Add a tensor of all processes in place, so that each has the total, and return how many processes there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    processes = dist.get_world_size()
    if processes > 1:
        dist.all_reduce(sums)
    return processes
