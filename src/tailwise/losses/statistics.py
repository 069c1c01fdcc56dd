"""What follows from class counts and from batches: weights, shifts, and factors guided by mean probabilities."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.formula import Factor, PairWeight, Side, Smoothing
from tailwise.shapes import Float, Int

ShiftFormula: TypeAlias = Literal["published", "paper"]
EffectiveMode: TypeAlias = Literal["mean_effective", "effective_of_mean", "mean_weight", "class"]
FactorChoice: TypeAlias = float | ArrayLike | Tensor | Mapping[str, float] | None
"""A factor of each class: a number, (K,) values, ``{group: value}`` over the base, or None for the base."""
Allowed: TypeAlias = Literal["positive", "not negative", "finite"]
"""Which numbers a parameter may take."""
FactorName: TypeAlias = Literal["neg_slope", "neg_divisor", "pos_slope", "pos_divisor"]
GUIDED_FACTORS: tuple[FactorName, ...] = get_args(FactorName)
Sync: TypeAlias = Literal["auto", "never"]
Adaptive: TypeAlias = FactorName | Iterable[FactorName] | Mapping[FactorName, str | Iterable[str]]

ALL = slice(None)
"""All classes."""
_SMALLEST_SUM = 1e-30
_FLOOR = 1e-12


class Classes:
    """Class counts and groups of a label set, as the formulas take them.

    Raises:
        ValueError: ``stats`` is no LabelStats.
    """

    def __init__(self, stats: LabelStats) -> None:
        require_stats(stats)
        self.stats = stats

    @cached_property
    def counts(self) -> NDArray[np.float64]:
        """Class counts n_k clipped to [1, N − 1]; a warning names the classes that this changes."""
        stats = self.stats
        highest = max(stats.num_samples - 1, 1)
        counts = np.clip(stats.class_counts, 1, highest).astype(np.float64)
        touched = np.flatnonzero(counts != stats.class_counts)
        if touched.size:
            names = ", ".join(repr(stats.class_names[index]) for index in touched[:5])
            more = f" and {touched.size - 5} more" if touched.size > 5 else ""
            warnings.warn(
                f"classes that are positive in no training sample, or in all {stats.num_samples}: {names}{more}; "
                f"the loss takes their counts as 1 or {highest}",
                stacklevel=2,
            )
        return counts

    def inverse_frequency(self, power: float) -> Float[Tensor, "C"]:
        """(N / n_k)^power."""
        return torch.from_numpy((self.stats.num_samples / self.counts) ** power).float()

    def prior_shift(self, strength: float) -> Float[Tensor, "C"]:
        """strength · log(N/n_k − 1): z − v lowers the logits of rare classes during training (DB, eq. 5 and 6)."""
        return torch.from_numpy(strength * np.log(self.stats.num_samples / self.counts - 1)).float()

    def margins(self, largest: float) -> Float[Tensor, "C"]:
        """LDAM's margins Δ_k = C / n_k^¼, of which the largest is given (Cao et al., NeurIPS 2019, eq. 13)."""
        return torch.from_numpy(largest * (self.counts.min() / self.counts) ** 0.25).float()

    def effective_number(self, beta: float) -> Float[Tensor, "C"]:
        """Effective number of samples E_n = (1 − βⁿ)/(1 − β) (Cui et al., CVPR 2019, eq. 2); β = 1 gives n."""
        numbers = self.counts if beta == 1 else (1 - beta**self.counts) / (1 - beta)
        return torch.from_numpy(numbers).float()

    def factor(self, name: str, choice: FactorChoice, base: float, allowed: Allowed = "positive") -> Factor:
        """Resolve a parameter: a number, (K,) values, or ``{group: value}`` over the base.

        Raises:
            ValueError: a group that does not exist, a wrong number of values, or one that is not finite or not allowed.
        """
        if choice is None:
            return float(base)
        if isinstance(choice, Mapping):
            values = np.full(self.stats.num_classes, float(base))
            for group, value in choice.items():
                if group not in self.stats.groups:
                    raise ValueError(f"{name} names the group {group!r}; there are {', '.join(self.stats.groups)}")
                values[self.stats.groups[group]] = _numbers(name, value)
        else:
            values = _numbers(name, choice.numpy(force=True) if isinstance(choice, Tensor) else choice)
            if values.ndim != 0 and values.shape != (self.stats.num_classes,):
                expected = f"a number or {self.stats.num_classes} values"
                raise ValueError(f"{name} must be {expected}, got shape {values.shape}")
        is_allowed = {"positive": values > 0, "not negative": values >= 0, "finite": True}[allowed]
        if not (np.isfinite(values) & is_allowed).all():
            expected = "finite" if allowed == "finite" else f"{allowed} and finite"
            raise ValueError(f"{name} must be {expected}, got {choice!r}")
        return float(values) if values.ndim == 0 else torch.from_numpy(values).float()


def _numbers(name: str, given: ArrayLike) -> NDArray[np.float64]:
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a number, one per class, or by group, got {given!r}") from error


class Weighting(nn.Module):
    """A rule for the weights w of a batch, from sums over the positives of each sample."""

    def class_values(self) -> Float[Tensor, "M C"] | None:
        """Values of each class, to be summed over the known positives of each sample; None if nothing is needed."""
        return None

    def forward(self, row_sums: Float[Tensor, "B M"] | None) -> PairWeight:
        """Return the weights, given those sums."""
        raise NotImplementedError


class ClassWeight(Weighting):
    """The same (C,) weights for every sample."""

    weight: Tensor

    def __init__(self, weight: Float[Tensor, "C"]) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def forward(self, _row_sums: Tensor | None) -> PairWeight:
        return PairWeight(label=self.weight)


class RebalancedWeight(Weighting):
    """Rebalanced weights of Distribution-Balanced loss (Wu et al., ECCV 2020, eq. 3 and 4).

    R_i = Σ_k y_ik / n_k,  r_ik = (1/n_k) / R_i,  r̂_ik = α + σ(β (r_ik − μ)),  on positives and negatives alike. A
    sample without a known positive has R = 0 and the limit r̂ = α + 1. Unknown labels add nothing to R.
    """

    inverse_counts: Tensor

    def __init__(self, classes: Classes, alpha: float, beta: float, mu: float) -> None:
        super().__init__()
        self.smoothing = Smoothing(alpha, beta, mu)
        self.register_buffer("inverse_counts", torch.from_numpy(1 / classes.counts).float())

    def class_values(self) -> Float[Tensor, "1 C"]:
        return self.inverse_counts[None]

    def forward(self, row_sums: Float[Tensor, "B 1"] | None) -> PairWeight:
        assert row_sums is not None
        inverse = 1 / row_sums[:, 0].clamp(min=_SMALLEST_SUM)
        return PairWeight(sample=inverse, label=self.inverse_counts, smoothing=self.smoothing)

    def extra_repr(self) -> str:
        return "alpha={}, beta={}, mu={}".format(*self.smoothing)


class SetEffectiveWeight(Weighting):
    """Class-balanced weights of a label set (Cui et al., CVPR 2019), one per sample.

    The modes make one weight of the sample's positive classes: ``"mean_effective"`` 1 / mean E_{n_k};
    ``"effective_of_mean"`` 1 / E of the mean n_k; ``"mean_weight"`` the mean of 1 / E_{n_k}. A sample without a known
    positive has 1/E of the largest class. Soft positives count by their target.
    """

    values: Tensor
    fallback: Tensor

    def __init__(self, classes: Classes, beta: float, mode: EffectiveMode) -> None:
        super().__init__()
        self.beta, self.mode = beta, mode
        effective = classes.effective_number(beta)
        per_class = {
            "mean_effective": effective,
            "effective_of_mean": torch.from_numpy(classes.counts).float(),
            "mean_weight": 1 / effective,
        }
        self.register_buffer("values", per_class[mode])
        self.register_buffer("fallback", 1 / effective.max())

    def class_values(self) -> Float[Tensor, "2 C"]:
        return torch.stack([self.values, torch.ones_like(self.values)])

    def forward(self, row_sums: Float[Tensor, "B 2"] | None) -> PairWeight:
        assert row_sums is not None
        total, positives = row_sums.unbind(1)
        mean = total / positives.clamp(min=_SMALLEST_SUM)
        if self.mode == "effective_of_mean" and self.beta != 1:
            mean = (1 - self.beta**mean) / (1 - self.beta)
        weight = mean if self.mode == "mean_weight" else 1 / mean
        return PairWeight(sample=torch.where(positives > 0, weight, self.fallback))

    def extra_repr(self) -> str:
        return f"beta={self.beta}, mode={self.mode!r}"


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

    A class without a positive in the batch takes the mean p̄⁺ of the classes of its own group that have one; if none
    has, its own p̄⁻. A class without a negative takes its p̄⁺ as p̄⁻.
    """
    positive_sum, positives, negative_sum, negatives = sums
    has_positive, has_negative = positives > 0, negatives > 0
    negative = torch.where(has_negative, negative_sum / negatives.clamp(min=_FLOOR), 0.5)
    own = positive_sum / positives.clamp(min=_FLOOR)
    replacement = torch.where(groups.has_positive[group_of_class], groups.mean[group_of_class], negative)
    positive = torch.where(has_positive, own, replacement)
    return MeanProbabilities(positive, torch.where(has_negative, negative, positive))


class Guidance(nn.Module):
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
        # A floor under both, so that no ratio is infinite and no divisor 0.
        high, low = mean.positive.clamp(min=_FLOOR), mean.negative.clamp(min=_FLOOR)
        return self._guided(positive, high / low, "pos", classes), self._guided(negative, low / high, "neg", classes)

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
