"""Any point of the one formula, by its parameters: the loss behind files of parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, Unpack

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from tailwise.labels import LabelStats, require_stats
from tailwise.losses.base import FactorChoice, MultiLabelLoss, per_class
from tailwise.losses.guidance import Adaptive, Guidance, Sync
from tailwise.losses.options import Common
from tailwise.losses.term import Factor, FocalOn, Side
from tailwise.losses.weights import (
    EFFECTIVE_MODES,
    ClassWeight,
    EffectiveMode,
    RebalancedWeight,
    SetEffectiveWeight,
    clamped_counts,
    effective_number,
    inverse_frequency,
    largest_margins,
    prior_shift,
)

Rule: TypeAlias = Mapping[str, Any]
"""``{"rule": name}`` with the numbers of that rule: something that follows from the class counts."""


class FormulaLoss(MultiLabelLoss):
    """The term with parameters as given; BCE when nothing is.

    A slope, divisor, exponent or shift is a number, (K,) values, or ``{group: value}`` laid over its base, which is 1
    for slopes and divisors, and 0 for exponents and shifts.

    Args:
        stats: statistics of the training labels.
        weight: w: None for 1; ``{"rule": "rebalanced", "alpha": 0.1, "beta": 10, "mu": 0.2}`` for r̂ of DB;
            ``{"rule": "inverse-frequency", "power": 0.5}`` for (N/n)^power; ``{"rule": "class-balanced",
            "beta": 0.9, "mode": "mean_effective"}`` for inverse effective numbers. The numbers shown are the defaults.
        pos_shift: v⁺, also by a rule: ``{"rule": "prior", "strength": 0.025}`` for strength · log(N/n − 1), where the
            strength of DB is κ/λ; ``{"rule": "margin", "largest": 0.5}`` for LDAM's margins.
        neg_shift: v⁻, likewise.
        pos_slope: λ₁⁺.
        neg_slope: λ₁⁻.
        pos_divisor: λ₂⁺.
        neg_divisor: λ₂⁻.
        pos_exponent: γ⁺.
        neg_exponent: γ⁻.
        balance: c, a plain factor.
        margin: probability margin m of ASL on the negative side.
        adaptive: factors multiplied by the batch ratio, as for PG.
        base_exponent: λ₀ of exponents that follow the batch ratio, as for APAF; None leaves γ± as given.
        max_exponent: upper bound of such exponents; None is none.
        focal_on: argument of the focal factor, the ``"regularized"`` logit or the ``"plain"`` one.
        sync: see :class:`tailwise.losses.guidance.Guidance`.
        common: ``reduction``, ``validate`` and ``impl``.

    Raises:
        ValueError: a parameter out of its range, a rule, key or group that does not exist, or a wrong number of values.
    """

    def __init__(
        self,
        stats: LabelStats,
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
        **common: Unpack[Common],
    ) -> None:
        if base_exponent is not None and not (pos_exponent is None and neg_exponent is None):
            raise ValueError("base_exponent makes the exponents follow the batch: leave pos_exponent, neg_exponent out")
        if max_exponent is not None and base_exponent is None:
            raise ValueError("max_exponent bounds exponents that follow the batch: give base_exponent as well")
        _require("margin", margin, lambda m: 0 <= m < 1, "a number in [0, 1)")
        _require("balance", balance, lambda c: c > 0, "a positive number")
        require_stats(stats)
        needs_counts = any(_is_rule(option) for option in (weight, pos_shift, neg_shift))
        counts = clamped_counts(stats) if needs_counts else stats.class_counts.astype(np.float64)
        positive = Side(
            shift=_shift("pos_shift", pos_shift, counts, stats),
            slope=per_class("pos_slope", pos_slope, 1.0, stats),
            divisor=per_class("pos_divisor", pos_divisor, 1.0, stats),
            exponent=per_class("pos_exponent", pos_exponent, 0.0, stats, allowed="not negative"),
        )
        negative = Side(
            shift=_shift("neg_shift", neg_shift, counts, stats),
            slope=per_class("neg_slope", neg_slope, 1.0, stats),
            divisor=per_class("neg_divisor", neg_divisor, 1.0, stats),
            exponent=per_class("neg_exponent", neg_exponent, 0.0, stats, allowed="not negative"),
        )
        guidance = Guidance(stats, adaptive=adaptive, base_exponent=base_exponent, max_exponent=max_exponent, sync=sync)
        super().__init__(
            stats,
            weight=None if weight is None else _by_rule("weight", weight, _WEIGHTS, counts, stats),
            positive=positive,
            negative=negative,
            scale=balance,
            margin=margin,
            guidance=guidance if guidance.adaptive or guidance.base_exponent is not None else None,
            focal_on=focal_on,
            **common,
        )


def _rebalanced(
    counts: NDArray[np.float64], _num_samples: int, *, alpha: float = 0.1, beta: float = 10.0, mu: float = 0.2
) -> nn.Module:
    return RebalancedWeight(counts, alpha, beta, mu)


def _inverse_frequency(counts: NDArray[np.float64], num_samples: int, *, power: float = 0.5) -> nn.Module:
    _require("power", power, lambda p: p >= 0, "0 or more")
    return ClassWeight(inverse_frequency(counts, num_samples, power))


def _class_balanced(
    counts: NDArray[np.float64], _num_samples: int, *, beta: float = 0.9, mode: EffectiveMode = "mean_effective"
) -> nn.Module:
    _require("beta", beta, lambda b: 0 <= b <= 1, "a number in [0, 1]")
    if mode not in EFFECTIVE_MODES:
        raise ValueError(f"mode must be one of {', '.join(EFFECTIVE_MODES)}, got {mode!r}")
    if mode == "class":
        return ClassWeight(1 / effective_number(counts, beta))
    return SetEffectiveWeight(counts, beta, mode)


def _prior(counts: NDArray[np.float64], num_samples: int, *, strength: float = 0.025) -> Tensor:
    return prior_shift(counts, num_samples, strength, 1.0)


def _margin(counts: NDArray[np.float64], _num_samples: int, *, largest: float = 0.5) -> Tensor:
    _require("largest", largest, lambda m: m >= 0, "0 or more")
    return largest_margins(counts, largest)


_WEIGHTS: dict[str, Callable[..., Any]] = {
    "rebalanced": _rebalanced,
    "inverse-frequency": _inverse_frequency,
    "class-balanced": _class_balanced,
}
_SHIFTS: dict[str, Callable[..., Any]] = {"prior": _prior, "margin": _margin}


def _is_rule(option: object) -> bool:
    return isinstance(option, Mapping) and "rule" in option


def _shift(option: str, given: FactorChoice | Rule, counts: NDArray[np.float64], stats: LabelStats) -> Factor:
    if isinstance(given, Mapping) and _is_rule(given):
        by_rule: Tensor = _by_rule(option, given, _SHIFTS, counts, stats)
        return by_rule
    return per_class(option, given, 0.0, stats, allowed="finite")


def _by_rule(
    option: str, given: Rule, rules: Mapping[str, Callable[..., Any]], counts: NDArray[np.float64], stats: LabelStats
) -> Any:
    """Apply the rule that an option names to the class counts."""
    if not isinstance(given, Mapping) or given.get("rule") not in rules:
        raise ValueError(f"{option} must have a rule, one of {', '.join(rules)}, got {given!r}")
    rule = rules[given["rule"]]
    numbers = {name: value for name, value in given.items() if name != "rule"}
    parameters = inspect.signature(rule).parameters.values()
    defaults = {entry.name: entry.default for entry in parameters if entry.kind is entry.KEYWORD_ONLY}
    for name, value in numbers.items():
        if name not in defaults:
            raise ValueError(f"{option} by the rule {given['rule']!r} has no {name!r}; it takes {', '.join(defaults)}")
        if not isinstance(defaults[name], str) and not _is_finite(value):
            raise ValueError(f"{name} of {option} must be a finite number, got {value!r}")
    try:
        return rule(counts, stats.num_samples, **numbers)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error


def _require(name: str, given: object, holds: Callable[[Any], bool], expected: str) -> None:
    if not (_is_finite(given) and holds(given)):
        raise ValueError(f"{name} must be {expected}, got {given!r}")


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
