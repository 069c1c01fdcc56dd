"""The formula by its parameters, as YAML files give them, and the rules for weights and shifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor

from tailwise.losses.formula import Factor, FocalOn, Side
from tailwise.losses.loss import Formula
from tailwise.losses.registry import is_finite, options_of, require, require_choice
from tailwise.losses.statistics import (
    Adaptive,
    Classes,
    ClassWeight,
    EffectiveMode,
    FactorChoice,
    Guidance,
    RebalancedWeight,
    SetEffectiveWeight,
    Sync,
    Weighting,
)

Rule: TypeAlias = Mapping[str, Any]
"""``{"rule": name}`` with the numbers of that rule: a parameter that follows from the class counts."""


def rebalanced(classes: Classes, *, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2) -> Weighting:
    """r̂ = α + σ(β (r − μ)): α is the floor, β the steepness, μ the repeat rate where the weight is α + 1/2."""
    return RebalancedWeight(classes, alpha, beta, mu)


def inverse_frequency(classes: Classes, *, power: float = 0.5) -> Weighting:
    """(N/n_k)^power: 1/2 for the smoothed weight √(N/n_k), 1 for N/n_k."""
    require("0 or more", power=power)
    return ClassWeight(classes.inverse_frequency(power))


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
    """Strength · log(N/n − 1); the strength of DB is κ/λ."""
    return classes.prior_shift(strength)


def margins(classes: Classes, *, largest: float = 0.5) -> Tensor:
    """LDAM's margins ∝ n^−¼, of which the largest is that of the rarest class."""
    require("0 or more", largest=largest)
    return classes.margins(largest)


def guided(classes: Classes, **options: Any) -> Guidance | None:
    """Guidance, or None where nothing follows it."""
    guidance = Guidance(classes.stats, **options)
    return guidance if guidance.adaptive or guidance.base_exponent is not None else None


def with_margin(side: Side, margin: float) -> Side:
    """A side with ASL's probability margin; 0 is none."""
    require("a number in [0, 1)", margin=margin)
    return side._replace(kind="margin", number=float(margin)) if margin > 0 else side


def formula(
    classes: Classes,
    *,
    weight: Rule | None = None,
    pos_shift: FactorChoice | Rule = None,
    neg_shift: FactorChoice | Rule = None,
    pos_slope: FactorChoice = None,
    neg_slope: FactorChoice = None,
    pos_divisor: FactorChoice = None,
    neg_divisor: FactorChoice = None,
    pos_exponent: FactorChoice = None,
    neg_exponent: FactorChoice = None,
    balance: float = 1.0,
    margin: float = 0.0,
    adaptive: Adaptive = (),
    base_exponent: float | None = None,
    max_exponent: float | None = None,
    focal_on: FocalOn = "regularized",
    sync: Sync = "auto",
) -> Formula:
    """Any point of the formula by its parameters, BCE when none is given: the loss behind YAML files.

    A slope, divisor, exponent or shift is a number, (K,) values, or ``{group: value}`` laid over its base, which is 1
    for slopes and divisors, and 0 for exponents and shifts. ``weight`` is ``{"rule": "rebalanced"}``,
    ``"inverse-frequency"`` or ``"class-balanced"`` with options of the function of that name in this module; a shift
    may be ``{"rule": "prior"}`` or ``{"rule": "margin"}`` likewise. ``margin`` is ASL's, ``adaptive``,
    ``max_exponent``, ``focal_on`` and ``sync`` are as for PG. ``base_exponent`` is λ₀ of exponents that follow the
    batch ratio; None leaves γ± as given.
    """
    if base_exponent is not None and not (pos_exponent is None and neg_exponent is None):
        raise ValueError("base_exponent makes the exponents follow the batch: leave pos_exponent, neg_exponent out")
    if max_exponent is not None and base_exponent is None:
        raise ValueError("max_exponent bounds exponents that follow the batch: give base_exponent as well")
    require("a positive number", balance=balance)

    def side(prefix: str, shift: FactorChoice | Rule, *factors: FactorChoice) -> Side:
        slope, divisor, exponent = factors
        return Side(
            _shift(classes, f"{prefix}_shift", shift),
            classes.factor(f"{prefix}_slope", slope, 1.0),
            classes.factor(f"{prefix}_divisor", divisor, 1.0),
            classes.factor(f"{prefix}_exponent", exponent, 0.0, "not negative"),
        )

    return Formula(
        side("pos", pos_shift, pos_slope, pos_divisor, pos_exponent),
        with_margin(side("neg", neg_shift, neg_slope, neg_divisor, neg_exponent), margin),
        weight=None if weight is None else _by_rule(classes, "weight", weight, _WEIGHTS),
        scale=balance,
        guidance=guided(classes, adaptive=adaptive, base_exponent=base_exponent, max_exponent=max_exponent, sync=sync),
        focal_on=focal_on,
    )


_WEIGHTS: dict[str, Callable[..., Weighting]] = {
    "rebalanced": rebalanced,
    "inverse-frequency": inverse_frequency,
    "class-balanced": class_balanced,
}
_SHIFTS: dict[str, Callable[..., Tensor]] = {"prior": prior, "margin": margins}


def _shift(classes: Classes, option: str, given: FactorChoice | Rule) -> Factor:
    if isinstance(given, Mapping) and "rule" in given:
        by_rule: Tensor = _by_rule(classes, option, given, _SHIFTS)
        return by_rule
    return classes.factor(option, given, 0.0, "finite")


def _by_rule(classes: Classes, option: str, given: Rule, rules: Mapping[str, Callable[..., Any]]) -> Any:
    """Apply the rule that an option names to the class counts."""
    if not isinstance(given, Mapping) or given.get("rule") not in rules:
        raise ValueError(f"{option} must have a rule, one of {', '.join(rules)}, got {given!r}")
    rule = rules[given["rule"]]
    numbers = {name: value for name, value in given.items() if name != "rule"}
    known = options_of(rule)
    for name, value in numbers.items():
        if name not in known:
            raise ValueError(f"{option} by the rule {given['rule']!r} has no {name!r}; it takes {', '.join(known)}")
        if name != "mode" and not is_finite(value):
            raise ValueError(f"{name} of {option} must be a finite number, got {value!r}")
    try:
        return rule(classes, **numbers)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error
