"""The formula shared by the losses, with its closed-form gradient.

For a logit z with target y, and per class a shift v, a slope λ₁, a divisor λ₂ and a focal exponent γ on either side:

    a⁺ = −λ₁⁺ (z − v⁺)                      a⁻ = λ₁⁻ (z − v⁻)
    ℓ⁺ = sp(a⁺) σ(a⁺)^γ⁺ / λ₂⁺              ℓ⁻ = sp(a⁻) σ(a⁻)^γ⁻ / λ₂⁻
    ℓ  = c · w · ( y ℓ⁺ + (1 − y) ℓ⁻ )

with sp(a) = log(1 + eᵃ). With s = ±1 the sign in front of λ₁, and a the argument of the side in question,

    dℓ/dz = c · w / λ₂ · s · λ₁ · σ(a)^γ · [ σ(a) + γ (1 − σ(a)) sp(a) ].

A side may have another kind: a function other than sp (see :data:`KINDS`). This module evaluates the term by
operations of torch, for every device and dtype; the kernels of :mod:`tailwise.losses.backends` compute the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tailwise.losses.autograd import is_transformed
from tailwise.shapes import Bool, Float, Shaped

Factor: TypeAlias = Tensor | float
"""A parameter of the term: one number, or (C,) values."""

FocalOn: TypeAlias = Literal["regularized", "plain"]
Kind: TypeAlias = Literal["softplus", "margin", "hill"]
SIDE_FACTORS = ("shift", "slope", "divisor", "exponent")
"""The fields of a side that may have a value for each class."""


class Side(NamedTuple):
    """Parameters of the positive or the negative side of the term."""

    shift: Factor = 0.0
    """v: subtracted from the logit."""
    slope: Factor = 1.0
    """λ₁: multiplies the shifted logit."""
    divisor: Factor = 1.0
    """λ₂: divides the loss."""
    exponent: Factor = 0.0
    """γ: the focal exponent."""
    kind: Kind = "softplus"
    """Function of a that the focal factor multiplies, one of :data:`KINDS`."""
    number: float = 0.0
    """The kind's own parameter."""

    @property
    def factors(self) -> tuple[Factor, Factor, Factor, Factor]:
        """Shift, slope, divisor and exponent."""
        return self[:4]

    def with_factors(self, factors: Iterable[Factor]) -> Side:
        """A side of the same kind with other factors."""
        shift, slope, divisor, exponent = factors
        return Side(shift, slope, divisor, exponent, self.kind, self.number)


class Smoothing(NamedTuple):
    """The map x → α + σ(β (x − μ)) that makes DB's weights of its ratios."""

    alpha: float
    beta: float
    mu: float


class PairWeight(NamedTuple):
    """The weight w of every pair, from a number of each sample and a number of each class.

    w_ik = sample_i · label_k, or α + σ(β (sample_i · label_k − μ)) with ``smoothing``. No (B, C) table is stored.
    """

    sample: Tensor | None = None
    """(B,), or None for 1."""
    label: Tensor | None = None
    """(C,), or None for 1."""
    smoothing: Smoothing | None = None


class Coefficients(NamedTuple):
    """All parameters of the term.

    ``focal_on`` says whether σ(a)^γ takes the regularised argument a, or the plain ∓z.
    """

    positive: Side = Side()
    negative: Side = Side()
    weight: PairWeight = PairWeight()
    scale: float = 1.0
    focal_on: FocalOn = "regularized"


def term(
    z: Float[Tensor, "B C"],
    targets: Shaped[Tensor, "B C"],
    known: Bool[Tensor, "B C"] | None,
    coefficients: Coefficients,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Evaluate the term for every (sample, label) pair, and its derivative by the logit.

    Args:
        z: (B, C) raw scores, float32 or float64.
        targets: (B, C) labels y. Floating-point targets may be soft, in [0, 1]; integer and boolean ones are taken as
            0/1, which needs one side per pair only.
        known: (B, C), False where the label is unknown: value and derivative are 0 there. None means all.
        coefficients: parameters, weights and factor.

    Returns:
        (B, C) losses, and (B, C) derivatives.
    """
    positive, negative, weights, scale, focal_on = coefficients
    if targets.is_floating_point() or (positive.kind, positive.number) != (negative.kind, negative.number):
        y = targets.to(z.dtype)
        value_plus, slope_plus = _side(z, -1.0, positive, focal_on)
        value_minus, slope_minus = _side(z, 1.0, negative, focal_on)
        value, slope = torch.lerp(value_minus, value_plus, y), torch.lerp(slope_minus, slope_plus, y)
    else:
        is_positive = targets > 0
        sign = torch.where(is_positive, -z.new_ones(()), z.new_ones(()))
        # A compiled program cannot call methods of a Side that it has made while shapes are checked.
        pairs = zip(positive[:4], negative[:4], strict=True)
        shift, steepness, divisor, exponent = (_select(is_positive, plus, minus, z) for plus, minus in pairs)
        side = Side(shift, steepness, divisor, exponent, positive.kind, positive.number)
        value, slope = _side(z, sign, side, focal_on)
    weight = weight_table(weights, z)
    if weight is not None or scale != 1:
        factor = scale if weight is None else weight * scale
        value, slope = value * factor, slope * factor
    if known is not None:
        value, slope = value.masked_fill(~known, 0), slope.masked_fill(~known, 0)
    return value, slope


def weight_table(weights: PairWeight, like: Tensor) -> Tensor | None:
    """The weights as a tensor that broadcasts to (B, C); None for 1."""
    sample, label, smoothing = weights
    column = None if sample is None else sample[:, None]
    table = label if column is None else column if label is None else column * label
    if table is None or smoothing is None:
        return table
    alpha, beta, mu = smoothing
    return alpha + torch.sigmoid(beta * (table.to(like.dtype) - mu))


def of_samples(coefficients: Coefficients, rows: slice) -> Coefficients:
    """The coefficients of some samples."""
    weight = coefficients.weight
    return (
        coefficients
        if weight.sample is None
        else coefficients._replace(weight=weight._replace(sample=weight.sample[rows]))
    )


def known_pairs(targets: Tensor, mask: Tensor | None) -> Tensor | None:
    """Which labels are known: not −1, not NaN and not masked. None means all, without reading them."""
    if targets.dtype in (torch.bool, torch.uint8):
        return mask
    known = targets >= 0  # False for NaN too
    return known if mask is None else known & mask


def _side(z: Tensor, sign: Tensor | float, side: Side, focal_on: FocalOn) -> tuple[Tensor, Tensor]:
    """Value of one side and its derivative by z, where a = s λ₁ (z − v)."""
    value, slope = KINDS[side.kind](z, sign, side, focal_on)
    return (value, slope) if _is_number(side.divisor, 1.0) else (value / side.divisor, slope / side.divisor)


def _softplus_side(z: Tensor, sign: Tensor | float, side: Side, focal_on: FocalOn) -> tuple[Tensor, Tensor]:
    """sp(a) σ(b)^γ, where b = a or s z."""
    steepness = sign * side.slope
    a = steepness * (z - side.shift)
    softplus, log_sigmoid = _softplus_and_log_sigmoid(a)
    value, slope = softplus, steepness * log_sigmoid.exp()
    if not _is_number(side.exponent, 0.0):
        b, focal_steepness = (a, steepness) if focal_on == "regularized" else (sign * z, sign)
        complement_log, focal_log = (softplus, log_sigmoid) if b is a else _softplus_and_log_sigmoid(b)
        focal = (side.exponent * focal_log).exp()
        # 1 − σ(b) = exp(−sp(b)): exact also where σ(b) rounds to 1.
        slope = focal * (slope + focal_steepness * side.exponent * (-complement_log).exp() * softplus)
        value = focal * value
    return value, slope


def _margin_side(z: Tensor, sign: Tensor | float, side: Side, _: FocalOn) -> tuple[Tensor, Tensor]:
    """−p_m^γ log(1 − p_m) with p_m = max(σ(a) − m, 0) (ASL, Ridnik et al., ICCV 2021, eq. 5); m is the number."""
    steepness = sign * side.slope
    p = torch.sigmoid(steepness * (z - side.shift))
    shifted = (p - side.number).clamp(min=0)
    complement_log = -torch.log1p(-shifted)
    # Below the margin both are 0; a power of 0 with an exponent under 1 would make them infinite or 1.
    above = shifted > 0
    power = torch.where(above, shifted, 1.0) ** side.exponent
    value = power * complement_log
    by_p = power * (side.exponent * complement_log / torch.where(above, shifted, 1.0) + 1 / (1 - shifted))
    return value, torch.where(above, by_p * p * (1 - p) * steepness, 0.0)


def _hill_side(z: Tensor, sign: Tensor | float, side: Side, _: FocalOn) -> tuple[Tensor, Tensor]:
    """(λ − p) p^γ with p = σ(a), bounded (Hill loss, Zhang et al., 2021); λ is the number."""
    steepness = sign * side.slope
    softplus, log_sigmoid = _softplus_and_log_sigmoid(steepness * (z - side.shift))
    p, power = log_sigmoid.exp(), (side.exponent * log_sigmoid).exp()
    rest = side.number - p
    return rest * power, steepness * (-softplus).exp() * power * (side.exponent * rest - p)


KINDS: dict[Kind, Callable[[Tensor, Tensor | float, Side, FocalOn], tuple[Tensor, Tensor]]] = {
    "softplus": _softplus_side,
    "margin": _margin_side,
    "hill": _hill_side,
}
"""Value, before the divisor, and derivative by z of each kind of side, from z, s, the side and ``focal_on``."""


def _softplus_and_log_sigmoid(a: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + eᵃ) and log σ(a), both to full relative precision for every a."""
    if a.requires_grad or is_transformed(a):
        # Twice the work, but derivatives of every order also at 0, where |a| has none.
        return -logsigmoid(-a), logsigmoid(a)
    tail = torch.log1p(torch.exp(-a.abs()))
    return a.clamp(min=0) + tail, a.clamp(max=0) - tail


def _select(is_positive: Tensor, plus: Factor, minus: Factor, like: Tensor) -> Factor:
    if plus is minus or (isinstance(plus, float | int) and isinstance(minus, float | int) and plus == minus):
        return plus
    return torch.where(is_positive, _as_tensor(plus, like), _as_tensor(minus, like))


def _as_tensor(factor: Factor, like: Tensor) -> Tensor:
    # torch.where would select a Python number in float32, for logits of any precision.
    return factor.to(like.dtype) if isinstance(factor, Tensor) else like.new_full((), factor)


def _is_number(factor: Factor, number: float) -> bool:
    return not isinstance(factor, Tensor) and factor == number


_RANGES: dict[str, Callable[[Any], bool]] = {
    "finite": lambda _: True,
    "0 or more": lambda number: number >= 0,
    "1 or more": lambda number: number >= 1,
    "a positive number": lambda number: number > 0,
    "a number between 0 and 1": lambda number: 0 < number < 1,
    "a number in [0, 1]": lambda number: 0 <= number <= 1,
    "a number in [0, 1)": lambda number: 0 <= number < 1,
}


def require(expected: str, **given: Any) -> None:
    for option, value in given.items():
        if not (is_finite(value) and _RANGES[expected](value)):
            raise ValueError(f"{option} must be {expected}, got {value!r}")


def require_choice(choices: Any, **given: Any) -> None:
    for option, value in given.items():
        if value not in get_args(choices):
            raise ValueError(f"{option} must be one of {', '.join(get_args(choices))}, got {value!r}")


def is_finite(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def with_margin(side: Side, margin: float) -> Side:
    """A side with ASL's probability margin; 0 is none."""
    require("a number in [0, 1)", margin=margin)
    return side._replace(kind="margin", number=float(margin)) if margin > 0 else side
