"""Weights, shifts and margins that follow from class counts, for classes and for the label sets of samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.formula import Factor, PairWeight, Smoothing, require, require_choice
from tailwise.shapes import Float

ShiftFormula: TypeAlias = Literal["published", "paper"]
EffectiveMode: TypeAlias = Literal["mean_effective", "effective_of_mean", "mean_weight", "class"]
FactorChoice: TypeAlias = float | ArrayLike | Tensor | Mapping[str, float] | None
"""A factor of each class: a number, (K,) values, ``{group: value}`` over the base, or None for the base."""
Allowed: TypeAlias = Literal["positive", "not negative", "finite"]
"""Which numbers a parameter may take."""

_SMALLEST_SUM = 1e-30


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

    R_i = Σ_k y_ik / n_k,  r_ik = (1/n_k) / R_i,  r̂_ik = α + σ(β (r_ik − μ)),  on positives and negatives. A
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


def rebalanced(classes: Classes, *, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2) -> Weighting:
    """r̂ = α + σ(β (r − μ)): α is the floor, β the steepness, μ the repeat rate where the weight is α + 1/2."""
    return RebalancedWeight(classes, alpha, beta, mu)


def inverse_frequency(classes: Classes, *, power: float = 0.5) -> Weighting:
    """(N/n_k)^power: 1/2 for the smoothed weight √(N/n_k), 1 for N/n_k."""
    require("0 or more", power=power)
    return ClassWeight(torch.from_numpy((classes.stats.num_samples / classes.counts) ** power).float())


def class_balanced(classes: Classes, *, beta: float = 0.9, mode: EffectiveMode = "mean_effective") -> Weighting:
    """Inverse effective number of samples, E_n = (1 − βⁿ)/(1 − β); β = 1 is the count itself.

    The positives of a sample make its weight by ``mode``: ``"mean_effective"`` 1 / mean E, which the supplement of DB
    prefers; ``"effective_of_mean"`` 1 / E of the mean count; ``"mean_weight"`` mean of 1/E; or ``"class"``, 1/E_{n_k}
    for every label of every sample.
    """
    require("a number in [0, 1]", beta=beta)
    require_choice(EffectiveMode, mode=mode)
    if mode == "class":
        return ClassWeight(1 / classes.effective_number(beta))
    return SetEffectiveWeight(classes, beta, mode)


def prior(classes: Classes, *, strength: float = 0.025) -> Tensor:
    """strength · log(N/n_k − 1): z − v lowers the logits of rare classes in training (DB, eq. 5 and 6, with κ/λ)."""
    return torch.from_numpy(strength * np.log(classes.stats.num_samples / classes.counts - 1)).float()


def margins(classes: Classes, *, largest: float = 0.5) -> Tensor:
    """LDAM's margins Δ_k = C / n_k^¼ with a given largest one (Cao et al., NeurIPS 2019, eq. 13)."""
    require("0 or more", largest=largest)
    return torch.from_numpy(largest * (classes.counts.min() / classes.counts) ** 0.25).float()
