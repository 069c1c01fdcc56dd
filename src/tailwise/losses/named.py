"""The named losses: each a choice of weights, shifts, slopes, divisors and exponents of the one term."""

from __future__ import annotations

from typing import Literal, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tailwise.labels import LabelStats
from tailwise.losses.base import FactorChoice, MultiLabelLoss, per_class
from tailwise.losses.guidance import Adaptive, Guidance, Sync
from tailwise.losses.options import Balancing, Common, Rebalancing
from tailwise.losses.term import FocalOn, Side
from tailwise.losses.weights import (
    EFFECTIVE_MODES,
    SHIFT_FORMULAS,
    ClassWeight,
    EffectiveMode,
    RebalancedWeight,
    SetEffectiveWeight,
    ShiftFormula,
    clamped_counts,
    effective_number,
    inverse_frequency,
    largest_margins,
    prior_shift,
)


class BCELoss(MultiLabelLoss):
    """Binary cross-entropy, ℓ⁺ = sp(−z), ℓ⁻ = sp(z): "ERM" in the papers' tables."""

    def __init__(self, stats: LabelStats, **common: Unpack[Common]) -> None:
        super().__init__(stats, **common)


class ReweightedLoss(MultiLabelLoss):
    """BCE weighted by inverse class frequency, w_k = (N/n_k)^power, on positives and negatives ("RW").

    Args:
        stats: statistics of the training labels.
        power: 1/2 for the smoothed weight √(N/n_k), 1 for N/n_k.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(self, stats: LabelStats, *, power: float = 0.5, **common: Unpack[Common]) -> None:
        _require("power", power, power >= 0, "not negative")
        weight = inverse_frequency(clamped_counts(stats), stats.num_samples, power)
        super().__init__(stats, weight=ClassWeight(weight), **common)


class FocalLoss(MultiLabelLoss):
    """Focal loss, c · (1 − p_t)^γ · BCE (Lin et al., ICCV 2017); c multiplies both sides alike.

    Args:
        stats: statistics of the training labels.
        gamma: focal exponent γ.
        balance: c, a plain factor (not the α_t of the paper).
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self, stats: LabelStats, *, gamma: float = 2.0, balance: float = 2.0, **common: Unpack[Common]
    ) -> None:
        _require("gamma", gamma, gamma >= 0, "not negative")
        side = Side(exponent=gamma)
        super().__init__(stats, positive=side, negative=side, scale=balance, **common)


class ClassBalancedFocalLoss(MultiLabelLoss):
    """Focal loss weighted by the inverse effective number of samples (Cui et al., CVPR 2019), for label sets.

    Args:
        stats: statistics of the training labels.
        beta: β of the effective number E_n = (1 − βⁿ)/(1 − β); 1 is the count itself.
        mode: how the positives of a sample make its weight: ``"mean_effective"`` 1 / mean E, which the supplement of
            DB prefers; ``"effective_of_mean"`` 1 / E of the mean count; ``"mean_weight"`` mean of 1/E; or
            ``"class"``, 1/E_{n_k} for every label whatever the sample.
        gamma: focal exponent γ.
        balance: c, a plain factor.
        loss_weight: a further plain factor: DB's supplement trains with 10, because the mean over all pairs makes the
            loss small.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        beta: float = 0.9,
        mode: EffectiveMode = "mean_effective",
        gamma: float = 2.0,
        balance: float = 2.0,
        loss_weight: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        _require("beta", beta, 0 <= beta <= 1, "in [0, 1]")
        _require("mode", mode, mode in EFFECTIVE_MODES, f"one of {', '.join(EFFECTIVE_MODES)}")
        _require("gamma", gamma, gamma >= 0, "not negative")
        counts = clamped_counts(stats)
        weight = (
            ClassWeight(1 / effective_number(counts, beta))
            if mode == "class"
            else SetEffectiveWeight(counts, beta, mode)
        )
        side = Side(exponent=gamma)
        super().__init__(stats, weight=weight, positive=side, negative=side, scale=balance * loss_weight, **common)


class LDAMLoss(MultiLabelLoss):
    """Label-distribution-aware margins on the positive side, v⁺_k = Δ_k (Cao et al., NeurIPS 2019).

    Args:
        stats: statistics of the training labels.
        max_margin: the largest Δ_k, that of the rarest class.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(self, stats: LabelStats, *, max_margin: float = 0.5, **common: Unpack[Common]) -> None:
        _require("max_margin", max_margin, max_margin >= 0, "not negative")
        margins = largest_margins(clamped_counts(stats), max_margin)
        super().__init__(stats, positive=Side(shift=margins), **common)


class AsymmetricLoss(MultiLabelLoss):
    """Asymmetric loss, ASL: focal exponents per side and a probability margin on negatives (Ridnik et al., ICCV 2021).

    The gradient passes through the focal factors, and very wrong positives keep theirs. The authors sum over all
    pairs: ``reduction="sum"`` for theirs.

    Args:
        stats: statistics of the training labels.
        gamma_neg: γ⁻.
        gamma_pos: γ⁺: 0 in the authors' training script, 1 elsewhere.
        margin: m, subtracted from the probability of negatives.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        margin: float = 0.05,
        **common: Unpack[Common],
    ) -> None:
        _require("gamma_neg", gamma_neg, gamma_neg >= 0, "not negative")
        _require("gamma_pos", gamma_pos, gamma_pos >= 0, "not negative")
        _require("margin", margin, 0 <= margin < 1, "in [0, 1)")
        super().__init__(
            stats, positive=Side(exponent=gamma_pos), negative=Side(exponent=gamma_neg), margin=margin, **common
        )


class AdaptiveFocalLoss(MultiLabelLoss):
    """Adaptive probability-aware focal loss, APAF: γ⁺ = λ₀ p̄⁺/p̄⁻, γ⁻ = λ₀ p̄⁻/p̄⁺ per class and batch (PG, eq. 8).

    Args:
        stats: statistics of the training labels.
        base_exponent: λ₀.
        max_exponent: upper bound of γ±; None is none.
        balance: c, a plain factor.
        sync: see :class:`tailwise.losses.guidance.Guidance`.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        base_exponent: float = 2.0,
        max_exponent: float | None = None,
        balance: float = 2.0,
        sync: Sync = "auto",
        **common: Unpack[Common],
    ) -> None:
        guidance = Guidance(stats, base_exponent=base_exponent, max_exponent=max_exponent, sync=sync)
        super().__init__(stats, guidance=guidance, scale=balance, **common)


class RebalancedBCELoss(MultiLabelLoss):
    """BCE with the rebalanced weights r̂ of DB (Wu et al., ECCV 2020, eq. 3 and 4).

    Args:
        stats: statistics of the training labels.
        alpha: α, the floor of the weights.
        beta: β, the steepness of the smoothing.
        mu: μ, the repeat rate at which the weight is α + 1/2.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self, stats: LabelStats, *, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2, **common: Unpack[Common]
    ) -> None:
        super().__init__(stats, weight=RebalancedWeight(clamped_counts(stats), alpha, beta, mu), **common)


class NegativeTolerantLoss(MultiLabelLoss):
    """Negative-tolerant regularisation, NTR: ℓ⁻ = sp(λ (z − v)) / λ, ℓ⁺ = sp(−(z − v)) (Wu et al., ECCV 2020, eq. 6).

    Args:
        stats: statistics of the training labels.
        neg_scale: λ, the slope and divisor of the negative side.
        kappa: κ, the strength of the prior shift; 0 turns it off.
        shift: ``"published"`` for v = (κ/λ) log(N/n − 1), ``"paper"`` for v = κ log(N/n − 1).
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        neg_scale: float = 2.0,
        kappa: float = 0.05,
        shift: ShiftFormula = "published",
        **common: Unpack[Common],
    ) -> None:
        v = _checked_shift(stats, clamped_counts(stats), kappa, neg_scale, shift)
        negative = Side(shift=v, slope=neg_scale, divisor=neg_scale)
        super().__init__(stats, positive=Side(shift=v), negative=negative, **common)


class ProbabilityGuidedLoss(MultiLabelLoss):
    """Probability-guided loss, PG: (adaptive) probability re-balancing with adaptive focal exponents (Lin, AAAI 2023).

    DB's weights and shift; free slopes λ₁ and divisors λ₂ of both sides; some of them, and the focal exponents, follow
    the ratio of each class's mean positive and negative probability in the batch (eq. 6 to 10; the exponentials of
    eq. 10 take their signs from eq. 5). λ₁⁺ raised lifts positive probabilities and lowers negative ones; λ₂⁺ lowers
    positive and lifts negative; λ₁⁻ lowers both; λ₂⁻ lifts positive and lowers negative (Table 1).

    A factor is a number, (K,) values, or ``{group: value}`` laid over its base. The base of ``neg_slope`` and
    ``neg_divisor`` is ``neg_scale``, that of the others 1.

    Args:
        stats: statistics of the training labels.
        alpha: α of the rebalanced weights.
        beta: β of the rebalanced weights.
        mu: μ of the rebalanced weights.
        kappa: κ of the prior shift.
        neg_scale: λ, the base of the negative side's factors; the prior shift divides by it.
        shift: formula of the prior shift, as for NTR.
        rebalance: whether the rebalanced weights are used.
        neg_slope: λ₁⁻.
        neg_divisor: λ₂⁻.
        pos_slope: λ₁⁺.
        pos_divisor: λ₂⁺.
        adaptive: factors multiplied by the batch ratio: names among ``neg_slope``, ``neg_divisor``, ``pos_slope`` and
            ``pos_divisor``, or ``{name: group or groups}`` for some classes only.
        exponent: ``"adaptive"`` for APAF's exponents, ``"fixed"`` for γ = ``base_exponent`` on both sides.
        base_exponent: λ₀.
        max_exponent: upper bound of adaptive exponents; None is none.
        balance: c, a plain factor.
        focal_on: argument of the focal factor, the ``"regularized"`` logit or the ``"plain"`` one; the paper leaves
            it open.
        sync: see :class:`tailwise.losses.guidance.Guidance`.
        common: ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self,
        stats: LabelStats,
        *,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        kappa: float = 0.05,
        neg_scale: float = 2.0,
        shift: ShiftFormula = "published",
        rebalance: bool = True,
        neg_slope: FactorChoice = None,
        neg_divisor: FactorChoice = None,
        pos_slope: FactorChoice = None,
        pos_divisor: FactorChoice = None,
        adaptive: Adaptive = ("neg_slope",),
        exponent: Literal["adaptive", "fixed"] = "adaptive",
        base_exponent: float = 2.0,
        max_exponent: float | None = None,
        balance: float = 2.0,
        focal_on: FocalOn = "regularized",
        sync: Sync = "auto",
        **common: Unpack[Common],
    ) -> None:
        _require("exponent", exponent, exponent in ("adaptive", "fixed"), "'adaptive' or 'fixed'")
        _require("base_exponent", base_exponent, base_exponent >= 0, "not negative")
        counts = clamped_counts(stats)
        v = _checked_shift(stats, counts, kappa, neg_scale, shift)
        fixed = base_exponent if exponent == "fixed" else 0.0
        positive = Side(
            shift=v,
            slope=per_class("pos_slope", pos_slope, 1.0, stats),
            divisor=per_class("pos_divisor", pos_divisor, 1.0, stats),
            exponent=fixed,
        )
        negative = Side(
            shift=v,
            slope=per_class("neg_slope", neg_slope, neg_scale, stats),
            divisor=per_class("neg_divisor", neg_divisor, neg_scale, stats),
            exponent=fixed,
        )
        guidance = Guidance(
            stats,
            adaptive=adaptive,
            base_exponent=base_exponent if exponent == "adaptive" else None,
            max_exponent=max_exponent,
            sync=sync,
        )
        super().__init__(
            stats,
            weight=RebalancedWeight(counts, alpha, beta, mu) if rebalance else None,
            positive=positive,
            negative=negative,
            scale=balance,
            guidance=guidance if guidance.adaptive or guidance.base_exponent is not None else None,
            focal_on=focal_on,
            **common,
        )


class ProbabilityRebalancedLoss(ProbabilityGuidedLoss):
    """Probability re-balancing, PR, or with adaptive factors APR: PG without a focal factor (PG, eq. 5 and 9).

    Args:
        stats: statistics of the training labels.
        adaptive: factors that follow the batch ratio (APR); none by default.
        balance: c, a plain factor.
        options: the weights, shift and factors of :class:`ProbabilityGuidedLoss`, and the options of every loss.
    """

    def __init__(
        self, stats: LabelStats, *, adaptive: Adaptive = (), balance: float = 1.0, **options: Unpack[Rebalancing]
    ) -> None:
        super().__init__(stats, adaptive=adaptive, exponent="fixed", base_exponent=0.0, balance=balance, **options)


class DistributionBalancedLoss(ProbabilityGuidedLoss):
    """Distribution-balanced loss, DB: rebalanced weights with negative-tolerant regularisation (Wu et al., ECCV 2020).

    Args:
        stats: statistics of the training labels.
        gamma: focal exponent γ.
        balance: c, a plain factor.
        options: ``alpha``, ``beta`` and ``mu`` of the weights, ``kappa``, ``neg_scale`` and ``shift`` of the
            regularisation as for :class:`ProbabilityGuidedLoss`, ``reduction``, ``validate`` and ``impl``.
    """

    def __init__(
        self, stats: LabelStats, *, gamma: float = 0.0, balance: float = 1.0, **options: Unpack[Balancing]
    ) -> None:
        _require("gamma", gamma, gamma >= 0, "not negative")
        super().__init__(stats, adaptive=(), exponent="fixed", base_exponent=gamma, balance=balance, **options)


class DistributionBalancedFocalLoss(DistributionBalancedLoss):
    """DB with the focal factor: what the authors' configurations and published models call DB."""

    def __init__(
        self, stats: LabelStats, *, gamma: float = 2.0, balance: float = 2.0, **options: Unpack[Balancing]
    ) -> None:
        super().__init__(stats, gamma=gamma, balance=balance, **options)


def _checked_shift(
    stats: LabelStats, counts: NDArray[np.float64], kappa: float, neg_scale: float, shift: ShiftFormula
) -> Tensor:
    _require("neg_scale", neg_scale, neg_scale > 0, "positive")
    _require("shift", shift, shift in SHIFT_FORMULAS, f"one of {', '.join(SHIFT_FORMULAS)}")
    return prior_shift(counts, stats.num_samples, kappa, neg_scale, shift)


def _require(option: str, given: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"{option} must be {expected}, got {given!r}")
