"""Weights, shifts and margins that follow from the class counts."""

from __future__ import annotations

import warnings
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.term import PairWeight, Smoothing
from tailwise.shapes import Bool, Float, Shaped

ShiftFormula: TypeAlias = Literal["published", "paper"]
SHIFT_FORMULAS: tuple[ShiftFormula, ...] = ("published", "paper")
EffectiveMode: TypeAlias = Literal["mean_effective", "effective_of_mean", "mean_weight", "class"]
EFFECTIVE_MODES: tuple[EffectiveMode, ...] = ("mean_effective", "effective_of_mean", "mean_weight", "class")

_SMALLEST_SUM = 1e-30


def clamped_counts(stats: LabelStats) -> NDArray[np.float64]:
    """Class counts n_k kept within [1, N − 1], as the formulas need them; a warning names the classes it touches."""
    require_stats(stats)
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


def prior_shift(
    counts: NDArray[np.float64],
    num_samples: int,
    kappa: float,
    neg_scale: float,
    formula: ShiftFormula = "published",
) -> Float[Tensor, "C"]:
    """Shift of the logits by the class prior (DB, eq. 5 and 6).

    ``"published"``: v_k = (κ/λ) log(N/n_k − 1), which the published numbers used. ``"paper"``: v_k = κ log(N/n_k − 1),
    as the text has it. z − v lowers the logits of rare classes during training.
    """
    strength = kappa / neg_scale if formula == "published" else kappa
    return torch.from_numpy(strength * np.log(num_samples / counts - 1)).float()


def largest_margins(counts: NDArray[np.float64], max_margin: float) -> Float[Tensor, "C"]:
    """LDAM's margins Δ_k = C / n_k^¼ with the largest ``max_margin`` (Cao et al., NeurIPS 2019, eq. 13)."""
    return torch.from_numpy(max_margin * (counts.min() / counts) ** 0.25).float()


def inverse_frequency(counts: NDArray[np.float64], num_samples: int, power: float) -> Float[Tensor, "C"]:
    """(N / n_k)^power."""
    return torch.from_numpy((num_samples / counts) ** power).float()


def effective_number(counts: NDArray[np.float64], beta: float) -> Float[Tensor, "C"]:
    """Effective number of samples E_n = (1 − βⁿ)/(1 − β) (Cui et al., CVPR 2019, eq. 2); β = 1 gives n."""
    if beta == 1:
        return torch.from_numpy(counts).float()
    return torch.from_numpy((1 - beta**counts) / (1 - beta)).float()


def known_positives(
    targets: Shaped[Tensor, "B C"], known: Bool[Tensor, "B C"] | None, dtype: torch.dtype
) -> Float[Tensor, "B C"]:
    """Targets as ``dtype`` with 0 for unknown labels."""
    y = targets.to(dtype)
    return y if known is None else y.masked_fill(~known, 0)


class Weighting(nn.Module):
    """A rule for the weights w of a batch: from sums over the positives of each sample, whatever holds its labels."""

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

    def __init__(self, counts: NDArray[np.float64], alpha: float, beta: float, mu: float) -> None:
        super().__init__()
        self.smoothing = Smoothing(alpha, beta, mu)
        self.register_buffer("inverse_counts", torch.from_numpy(1 / counts).float())

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

    def __init__(self, counts: NDArray[np.float64], beta: float, mode: EffectiveMode) -> None:
        super().__init__()
        self.beta, self.mode = beta, mode
        effective = effective_number(counts, beta)
        per_class = {
            "mean_effective": effective,
            "effective_of_mean": torch.from_numpy(counts).float(),
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
