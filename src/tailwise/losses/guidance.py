"""Probability guidance: the batch's mean probabilities per class, and the factors and exponents that follow them.

Lin, "Probability Guided Loss for Long-Tailed Multi-Label Image Classification", AAAI 2023.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.term import Side
from tailwise.shapes import Float, Int

FactorName: TypeAlias = Literal["neg_slope", "neg_divisor", "pos_slope", "pos_divisor"]
FACTORS: tuple[FactorName, ...] = get_args(FactorName)
Sync: TypeAlias = Literal["auto", "never"]
Adaptive: TypeAlias = FactorName | Iterable[FactorName] | Mapping[FactorName, str | Iterable[str]]

_FLOOR = 1e-12
ALL = slice(None)
"""All classes."""


class MeanProbabilities(NamedTuple):
    """Mean predicted probability of each class over the batch's positives and negatives, both (C,)."""

    positive: Tensor
    negative: Tensor


class GroupMeans(NamedTuple):
    """What stands in for p̄⁺ of a class without a positive, by group, both (G,)."""

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

    A class without a positive in the batch takes the mean p̄⁺ of the classes of its own group that have one; if none
    has, its own p̄⁻. A class without a negative takes its p̄⁺ as p̄⁻.
    """
    positive_sum, positives, negative_sum, negatives = sums
    has_positive, has_negative = positives > 0, negatives > 0
    negative = torch.where(has_negative, negative_sum / negatives.clamp(min=_FLOOR), 0.5)
    own = positive_sum / positives.clamp(min=_FLOOR)
    stand_in = torch.where(groups.has_positive[group_of_class], groups.mean[group_of_class], negative)
    positive = torch.where(has_positive, own, stand_in)
    return MeanProbabilities(positive, torch.where(has_negative, negative, positive))


class Guidance(nn.Module):
    """Adapts factors and focal exponents to the batch (PG, eq. 8 to 10).

    With the ratio ρ⁺ = p̄⁺/p̄⁻ on the positive side and ρ⁻ = p̄⁻/p̄⁺ on the negative one, an adaptive factor is
    multiplied by its side's ρ, and the exponents are γ± = λ₀ ρ±, at most ``max_exponent``.

    Args:
        stats: gives the groups whose classes stand in for each other.
        adaptive: factors that follow the batch ratio: names, for all classes, or a mapping from a name to the group
            or groups whose classes do.
        base_exponent: λ₀; None leaves the exponents as they are.
        max_exponent: upper bound of the exponents.
        sync: ``"auto"`` adds the sums of all processes in training when a process group is up, so that the result
            equals one process with the whole batch; ``"never"`` uses each process's own batch.
    """

    group_of_class: Tensor

    def __init__(
        self,
        stats: LabelStats,
        *,
        adaptive: Adaptive = (),
        base_exponent: float | None = None,
        max_exponent: float | None = None,
        sync: Sync = "auto",
    ) -> None:
        super().__init__()
        require_stats(stats)
        if sync not in get_args(Sync):
            raise ValueError(f"sync must be 'auto' or 'never', got {sync!r}")
        if base_exponent is not None and base_exponent < 0:
            raise ValueError(f"base_exponent must not be negative, got {base_exponent}")
        if max_exponent is not None and max_exponent < 0:
            raise ValueError(f"max_exponent must not be negative, got {max_exponent}")
        self.base_exponent, self.max_exponent, self.sync = base_exponent, max_exponent, sync
        self.num_groups = len(stats.groups)
        self.register_buffer("group_of_class", group_positions(stats))
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
        """Return the two sides as this batch has them.

        Args:
            sums: Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) over the known pairs of each class.
            positive: the positive side.
            negative: the negative side.
            classes: which classes these are, when it is not all.
            groups: the means of the groups, when ``sums`` has not all classes.
        """
        if groups is None:
            groups = self.group_means(sums[:2])
        mean = mean_probabilities(sums, self.group_of_class[classes], groups)
        # Both ends keep clear of 0, so that no ratio is infinite and no divisor 0.
        high, low = mean.positive.clamp(min=_FLOOR), mean.negative.clamp(min=_FLOOR)
        return self._guided(positive, high / low, "pos", classes), self._guided(negative, low / high, "neg", classes)

    def group_means(self, positive_sums: Float[Tensor, "2 C"]) -> GroupMeans:
        """What stands in for classes without a positive, from Σ p y and Σ y of every class."""
        return group_means(positive_sums, self.group_of_class, self.num_groups)

    def _guided(self, side: Side, ratio: Tensor, prefix: Literal["pos", "neg"], classes: slice) -> Side:
        changes: dict[str, Tensor] = {}
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


def _adaptive_groups(adaptive: Adaptive, stats: LabelStats) -> dict[str, tuple[str, ...] | None]:
    """Groups by adaptive factor; None stands for all classes."""
    names = (adaptive,) if isinstance(adaptive, str) else adaptive
    named: dict[Any, Any] = {**names} if isinstance(names, Mapping) else dict.fromkeys(names)
    resolved: dict[str, tuple[str, ...] | None] = {}
    for name, groups in named.items():
        if name not in FACTORS:
            raise ValueError(f"adaptive names {name!r}; it can name {', '.join(FACTORS)}")
        chosen = None if groups is None else (groups,) if isinstance(groups, str) else tuple(groups)
        for group in chosen or ():
            if group not in stats.groups:
                raise ValueError(f"adaptive {name} names the group {group!r}; there are {', '.join(stats.groups)}")
        resolved[name] = chosen
    return resolved


def group_positions(stats: LabelStats) -> Int[Tensor, "C"]:
    """Position of the group of each class among the groups."""
    owner = np.zeros(stats.num_classes, dtype=np.int64)
    for position, members in enumerate(stats.groups.values()):
        owner[members] = position
    return torch.from_numpy(owner)


def add_over_processes(sums: Tensor) -> int:
    """Add a tensor of all processes in place, so that each has the total, and return how many processes there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    processes = dist.get_world_size()
    if processes > 1:
        dist.all_reduce(sums)
    return processes
