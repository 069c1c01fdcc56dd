"""Named losses: functions that return parameters of the formula.

To add one, write such a function here and decorate it with :func:`preset`: :func:`create`, the command line, the
chunked head and the tests that cover every loss then include it.
"""

from __future__ import annotations

import math
from functools import partial
from numbers import Real
from typing import Any, Literal

from tailwise.losses import coupled
from tailwise.losses.coupled import Coupled
from tailwise.losses.formula import FocalOn, Side, require, require_choice, with_margin
from tailwise.losses.guidance import Adaptive, Correction, Steering, Sync, guided
from tailwise.losses.loss import Formula
from tailwise.losses.registry import options_for, preset
from tailwise.losses.statistics import (
    Classes,
    FactorChoice,
    ShiftFormula,
    class_balanced,
    inverse_frequency,
    margins,
    prior,
    rebalanced,
)


@preset("bce")
def bce(_classes: Classes) -> Formula:
    """Binary cross-entropy, ℓ⁺ = sp(−z), ℓ⁻ = sp(z): "ERM" in the papers' tables."""
    return Formula()


@preset("rw", inverse_frequency)
def rw(classes: Classes, **options: Any) -> Formula:
    """BCE weighted by inverse class frequency, on positives and negatives."""
    return Formula(weight=inverse_frequency(classes, **options))


@preset("focal")
def focal(_classes: Classes, *, gamma: float = 2.0, balance: float = 2.0) -> Formula:
    """Focal loss, c · (1 − p_t)^γ · BCE (Lin et al., ICCV 2017); c is a plain factor, not the α_t of the paper."""
    require("0 or more", gamma=gamma)
    return Formula(Side(exponent=gamma), Side(exponent=gamma), scale=balance)


@preset("cb-focal", class_balanced, focal)
def cb_focal(classes: Classes, *, loss_weight: float = 1.0, **options: Any) -> Formula:
    """Focal loss weighted by the inverse effective number of samples (Cui et al., CVPR 2019), for label sets.

    DB's supplement trains with ``loss_weight`` 10, because the mean over all pairs makes the loss small.
    """
    focused = focal(classes, **options_for(focal, options))
    weight = class_balanced(classes, **options_for(class_balanced, options))
    return focused._replace(weight=weight, scale=focused.scale * loss_weight)


@preset("ldam")
def ldam(classes: Classes, *, max_margin: float = 0.5) -> Formula:
    """Label-distribution-aware margins on the positive side, v⁺_k = Δ_k (Cao et al., NeurIPS 2019)."""
    require("0 or more", max_margin=max_margin)
    return Formula(Side(shift=margins(classes, largest=max_margin)))


@preset("asl")
def asl(_classes: Classes, *, gamma_neg: float = 4.0, gamma_pos: float = 0.0, margin: float = 0.05) -> Formula:
    """Asymmetric loss, ASL: focal exponents per side and a probability margin on negatives (Ridnik et al., ICCV 2021).

    γ⁺ is 0 in the authors' training script, 1 elsewhere. The gradient passes through the focal factors, and very wrong
    positives keep theirs. The authors sum over all pairs: ``reduction="sum"``.
    """
    require("0 or more", gamma_neg=gamma_neg, gamma_pos=gamma_pos)
    return Formula(Side(exponent=gamma_pos), with_margin(Side(exponent=gamma_neg), margin))


@preset("r-bce", rebalanced)
def r_bce(classes: Classes, **options: Any) -> Formula:
    """BCE with the rebalanced weights r̂ of DB (Wu et al., ECCV 2020, eq. 3 and 4)."""
    return Formula(weight=rebalanced(classes, **options))


@preset("ntr")
def ntr(classes: Classes, *, neg_scale: float = 2.0, kappa: float = 0.05, shift: ShiftFormula = "published") -> Formula:
    """Negative-tolerant regularisation, NTR: ℓ⁻ = sp(λ (z − v)) / λ, ℓ⁺ = sp(−(z − v)) (Wu et al., ECCV 2020, eq. 6).

    ``neg_scale`` is λ, ``kappa`` the strength κ of the prior shift; 0 turns it off. ``shift`` is ``"published"`` for
    v = (κ/λ) log(N/n − 1), which the published numbers used, or ``"paper"`` for v = κ log(N/n − 1), as the text has it.
    """
    require("a positive number", neg_scale=neg_scale)
    require_choice(ShiftFormula, shift=shift)
    v = prior(classes, strength=kappa / neg_scale if shift == "published" else kappa)
    return Formula(Side(shift=v), Side(shift=v, slope=neg_scale, divisor=neg_scale))


@preset("db", r_bce, ntr)
def db(classes: Classes, *, gamma: float = 0.0, balance: float = 1.0, **options: Any) -> Formula:
    """Distribution-balanced loss: R-BCE and NTR together, with γ > 0 focal (Wu et al., ECCV 2020)."""
    require("0 or more", gamma=gamma)
    weighted, regularized = r_bce(classes, **options_for(r_bce, options)), ntr(classes, **options_for(ntr, options))
    return _focused(regularized._replace(weight=weighted.weight, scale=balance), gamma)


@preset("db-focal", db)
def db_focal(classes: Classes, *, gamma: float = 2.0, balance: float = 2.0, **options: Any) -> Formula:
    """DB with the factors of focal loss: what the authors' configurations and published models call DB."""
    return db(classes, gamma=gamma, balance=balance, **options)


def _focused(formula: Formula, gamma: float) -> Formula:
    positive, negative = (side._replace(exponent=gamma) for side in (formula.positive, formula.negative))
    return formula._replace(positive=positive, negative=negative)


@preset("pr", r_bce, ntr)
def pr(
    classes: Classes,
    *,
    rebalance: bool = True,
    neg_slope: FactorChoice = None,
    neg_divisor: FactorChoice = None,
    pos_slope: FactorChoice = None,
    pos_divisor: FactorChoice = None,
    adaptive: Adaptive = (),
    balance: float = 1.0,
    sync: Sync = "auto",
    **options: Any,
) -> Formula:
    """Probability re-balancing, PR: DB with free factors; APR where some are adaptive (Lin, AAAI 2023, eq. 5 and 9).

    λ₁⁺ (``pos_slope``) raised lifts positive probabilities and lowers negative ones; λ₂⁺ (``pos_divisor``) lowers
    positive and lifts negative; λ₁⁻ (``neg_slope``) lowers both; λ₂⁻ (``neg_divisor``) lifts positive and lowers
    negative (Table 1). A factor is a number, (K,) values, or ``{group: value}`` that replaces its base, which is
    ``neg_scale`` on the negative side and 1 on the positive one.

    ``adaptive`` are the factors multiplied by the batch ratio: names, or ``{name: group or groups}`` for some classes
    only. ``rebalance=False`` leaves DB's weights out; ``sync`` is that of :class:`Guidance`.
    """
    formula = db(classes, balance=balance, **options)
    base = formula.negative.slope
    assert isinstance(base, Real)
    positive = formula.positive._replace(
        slope=classes.factor("pos_slope", pos_slope, 1.0), divisor=classes.factor("pos_divisor", pos_divisor, 1.0)
    )
    negative = formula.negative._replace(
        slope=classes.factor("neg_slope", neg_slope, base), divisor=classes.factor("neg_divisor", neg_divisor, base)
    )
    weight, guidance = formula.weight if rebalance else None, guided(classes.stats, adaptive=adaptive, sync=sync)
    return formula._replace(positive=positive, negative=negative, weight=weight, guidance=guidance)


@preset("apaf")
def apaf(
    classes: Classes,
    *,
    base_exponent: float = 2.0,
    max_exponent: float | None = None,
    balance: float = 2.0,
    sync: Sync = "auto",
) -> Formula:
    """Adaptive probability-aware focal loss: γ⁺ = λ₀ p̄⁺/p̄⁻, γ⁻ = λ₀ p̄⁻/p̄⁺ per class and batch (PG, eq. 8).

    ``base_exponent`` is λ₀, ``max_exponent`` an upper bound of γ±; None is none.
    """
    guidance = guided(classes.stats, base_exponent=base_exponent, max_exponent=max_exponent, sync=sync)
    return Formula(scale=balance, guidance=guidance)


@preset("pg", pr)
def pg(
    classes: Classes,
    *,
    adaptive: Adaptive = ("neg_slope",),
    exponent: Literal["adaptive", "fixed"] = "adaptive",
    base_exponent: float = 2.0,
    max_exponent: float | None = None,
    balance: float = 2.0,
    focal_on: FocalOn = "regularized",
    sync: Sync = "auto",
    **options: Any,
) -> Formula:
    """Probability-guided loss: DB-Focal whose factors and exponents follow the batch (Lin, AAAI 2023, eq. 6 to 10).

    The factors are those of PR, the exponents those of APAF, or γ = ``base_exponent`` on both sides where ``exponent``
    is ``"fixed"``. The exponentials of eq. 10 take their signs from eq. 5. ``focal_on`` is the argument of the focal
    factor, the ``"regularized"`` logit or the ``"plain"`` one: the paper leaves it open.
    """
    require_choice(Literal["adaptive", "fixed"], exponent=exponent)
    require("0 or more", base_exponent=base_exponent)
    follows = exponent == "adaptive"
    formula = _focused(pr(classes, balance=balance, **options), 0.0 if follows else base_exponent)
    guidance = guided(
        classes.stats,
        adaptive=adaptive,
        base_exponent=base_exponent if follows else None,
        max_exponent=max_exponent,
        sync=sync,
    )
    return formula._replace(guidance=guidance, focal_on=focal_on)


@preset("pg-auto", r_bce)
def pg_auto(
    classes: Classes,
    *,
    kappa: float = 0.05,
    rebalance: bool = True,
    neg_scale: float = 1.0,
    tolerance: float = 2.0,
    max_slope: float = 20.0,
    leveling: float = 1.0,
    max_balance: float = 2.0,
    window: float = 100.0,
    balance: float = 1.0,
    sync: Sync = "auto",
    **options: Any,
) -> Formula:
    """DB whose λ₁⁻, λ₂⁻ and λ₂⁺ of head, medium and tail classes follow the rules of :class:`Steering`.

    There is no focal factor. κ is that of the prior shift v = (κ/λ₁⁻) log(N/n − 1). With ``tolerance=0`` and
    ``leveling=0`` nothing is steered, and the loss is DB with its ``neg_scale``.
    """
    steering = Steering(
        classes.stats,
        neg_scale=neg_scale,
        tolerance=tolerance,
        max_slope=max_slope,
        leveling=leveling,
        max_balance=max_balance,
        window=window,
        sync=sync,
    )
    side = Side(shift=prior(classes, strength=kappa))
    weight = r_bce(classes, **options).weight if rebalance else None
    return Formula(side, side, weight=weight, scale=balance, guidance=steering)


@preset("hill")
def hill(_classes: Classes, *, margin: float = 1.0, gamma: float = 2.0, height: float = 1.5) -> Formula:
    """Hill loss for missing labels: bounded (λ − p) p² on negatives, focal margin on positives (Zhang et al., 2021).

    ``height`` is λ: the weight λ − p reduces the loss of negatives of high probability, which may be missed positives.
    """
    require("0 or more", gamma=gamma)
    require("1 or more", height=height)
    return Formula(Side(shift=margin, exponent=gamma), Side(exponent=2.0, kind="hill", number=float(height)))


@preset("splc")
def splc(
    classes: Classes,
    *,
    margin: float = 1.0,
    gamma: float = 2.0,
    threshold: float = 0.6,
    change_epoch: float = 1.0,
) -> Formula:
    """Self-paced loss correction for missing labels, on a focal loss with a margin of positives (Zhang et al., 2021).

    Once ``change_epoch`` times N training samples have been seen, negatives of a probability above ``threshold`` τ have
    the loss of positives, with its margin.
    """
    require("0 or more", gamma=gamma, change_epoch=change_epoch)
    require("a number between 0 and 1", threshold=threshold)
    correction = Correction(threshold, math.ceil(change_epoch * classes.stats.num_samples))
    return Formula(Side(shift=margin, exponent=gamma), Side(exponent=gamma), correction=correction)


@preset("two-way")
def two_way(_classes: Classes, *, temperature: float = 4.0) -> Coupled:
    """Softmax losses of each sample and of each class, with temperature T of positives (Kobayashi, CVPR 2023).

    The classes' part compares the samples of a batch, in each process its own.
    """
    require("a positive number", temperature=temperature)
    function = partial(coupled.two_way, temperature=temperature)
    return Coupled(function, reductions=("mean", "sum"), takes_soft=False)


@preset("zlpr")
def zlpr(_classes: Classes) -> Coupled:
    """ZLPR: log-sum-exp losses that put positives of a sample above 0 and negatives below (Su et al., 2022)."""
    return Coupled(coupled.zlpr)
