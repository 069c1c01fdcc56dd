"""The one formula behind every loss, its closed-form gradient, and the reductions.

For a logit z with target y, and per class a shift v, a slope λ₁, a divisor λ₂ and a focal exponent γ on either side:

    a⁺ = −λ₁⁺ (z − v⁺)                      a⁻ = λ₁⁻ (z − v⁻)
    ℓ⁺ = sp(a⁺) σ(a⁺)^γ⁺ / λ₂⁺              ℓ⁻ = sp(a⁻) σ(a⁻)^γ⁻ / λ₂⁻
    ℓ  = c · w · ( y ℓ⁺ + (1 − y) ℓ⁻ )

with sp(a) = log(1 + eᵃ). With s = ±1 the sign in front of λ₁, and a the argument of the side in question,

    dℓ/dz = c · w / λ₂ · s · λ₁ · σ(a)^γ · [ σ(a) + γ (1 − σ(a)) sp(a) ].
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tailwise.shapes import Bool, Float, Shaped

Factor: TypeAlias = Tensor | float
"""A parameter of the term: one number, or (C,) values."""

FocalOn: TypeAlias = Literal["regularized", "plain"]
Reduction: TypeAlias = Literal["mean", "sum", "batchmean", "none"]
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum", "batchmean", "none")


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


def term(
    logits: Float[Tensor, "B C"],
    targets: Shaped[Tensor, "B C"],
    positive: Side = Side(),  # noqa: B008 - a NamedTuple cannot change
    negative: Side = Side(),  # noqa: B008
    *,
    weight: Tensor | None = None,
    scale: float = 1.0,
    margin: float = 0.0,
    focal_on: FocalOn = "regularized",
    known: Bool[Tensor, "B C"] | None = None,
) -> Float[Tensor, "B C"]:
    """Evaluate the term for every (sample, label) pair.

    Only ``logits`` receive a gradient, which is computed by the closed form together with the value; nothing else is
    kept for the backward pass. Half-precision logits are computed in float32.

    Args:
        logits: (B, C) raw scores z.
        targets: (B, C) labels y. Floating-point targets may be soft, in [0, 1]; integer and boolean ones are taken as
            0/1, which needs one side per pair only.
        positive: parameters of the side that y = 1 selects.
        negative: parameters of the side that y = 0 selects.
        weight: w, broadcastable to (B, C).
        scale: c, a plain factor.
        margin: ASL's probability margin m (Ridnik et al., ICCV 2021): where it is positive, the negative side is
            −p_mᵞ log(1 − p_m) / λ₂⁻ with p_m = max(σ(a⁻) − m, 0).
        focal_on: whether σ(a)^γ takes the regularised argument a, or the plain ∓z.
        known: (B, C), False where the label is unknown: no loss and no gradient there.

    Returns:
        (B, C) losses in float32, or float64 for float64 logits.
    """
    wants_gradient = torch.is_grad_enabled() and logits.requires_grad
    with torch.no_grad():
        z = logits.detach()
        z = z.float() if z.dtype in (torch.float16, torch.bfloat16) else z
        if targets.is_floating_point() or margin > 0:
            value, slope = _both_sides(z, targets, positive, negative, margin, focal_on)
        else:
            value, slope = _selected_side(z, targets > 0, positive, negative, focal_on)
        if weight is not None or scale != 1:
            factor = scale if weight is None else weight * scale
            value = value * factor
            slope = slope * factor
        if known is not None:
            value = value.masked_fill(~known, 0)
            slope = slope.masked_fill(~known, 0)
    if not wants_gradient:
        return value
    attached: Tensor = _WithGradient.apply(logits, value, slope)
    return attached


def reduce(loss: Tensor, known: Tensor | None, reduction: Reduction) -> Tensor:
    """Reduce (B, C) losses.

    ``"mean"`` divides the sum by the number of known pairs, ``"batchmean"`` by the number of samples, ``"sum"`` by
    nothing; ``"none"`` returns the losses. A batch without a known pair gives 0.
    """
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if reduction == "batchmean":
        return total / max(loss.shape[0], 1)
    if known is None:
        return total / max(loss.numel(), 1)
    return total / known.sum().clamp(min=1)


def known_pairs(targets: Tensor, mask: Tensor | None) -> Tensor | None:
    """Say which labels are known: not −1, not NaN and not masked. None means all, without looking."""
    if targets.dtype in (torch.bool, torch.uint8):
        return mask
    known = targets >= 0  # False for NaN too
    return known if mask is None else known & mask


class _WithGradient(torch.autograd.Function):
    """Give a value computed outside the graph its gradient with respect to the logits."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope.to(logits.dtype))
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return (upstream * slope).to(slope.dtype), None, None


def _selected_side(
    z: Tensor, is_positive: Tensor, positive: Side, negative: Side, focal_on: FocalOn
) -> tuple[Tensor, Tensor]:
    """Value and slope for 0/1 targets: select the parameters, then evaluate one side."""
    sign = torch.where(is_positive, -z.new_ones(()), z.new_ones(()))
    side = Side(*(_select(is_positive, plus, minus, z) for plus, minus in zip(positive, negative, strict=True)))
    return _one_side(z, sign, side, focal_on)


def _both_sides(
    z: Tensor, targets: Tensor, positive: Side, negative: Side, margin: float, focal_on: FocalOn
) -> tuple[Tensor, Tensor]:
    """Value and slope for soft targets, and for sides that differ in more than parameters."""
    y = targets.to(z.dtype)
    value_plus, slope_plus = _one_side(z, -1.0, positive, focal_on)
    if margin > 0:
        value_minus, slope_minus = _margin_side(z, negative, margin)
    else:
        value_minus, slope_minus = _one_side(z, 1.0, negative, focal_on)
    return torch.lerp(value_minus, value_plus, y), torch.lerp(slope_minus, slope_plus, y)


def _one_side(z: Tensor, sign: Tensor | float, side: Side, focal_on: FocalOn) -> tuple[Tensor, Tensor]:
    """Value and derivative by z of sp(a) σ(b)^γ / λ₂, where a = s λ₁ (z − v), and b = a or s z."""
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
    if not _is_number(side.divisor, 1.0):
        value, slope = value / side.divisor, slope / side.divisor
    return value, slope


def _margin_side(z: Tensor, side: Side, margin: float) -> tuple[Tensor, Tensor]:
    """Value and derivative by z of ASL's negative side, −p_m^γ log(1 − p_m) / λ₂ with p_m = max(σ(a) − m, 0)."""
    p = torch.sigmoid(side.slope * (z - side.shift))
    shifted = (p - margin).clamp(min=0)
    complement_log = -torch.log1p(-shifted)
    # Below the margin both are 0; a power of 0 with an exponent under 1 would make them infinite or 1.
    above = shifted > 0
    power = torch.where(above, shifted, 1.0) ** side.exponent
    value = power * complement_log
    by_p = power * (side.exponent * complement_log / torch.where(above, shifted, 1.0) + 1 / (1 - shifted))
    slope = torch.where(above, by_p * p * (1 - p) * side.slope, 0.0)
    return value / side.divisor, slope / side.divisor


def _softplus_and_log_sigmoid(a: Tensor) -> tuple[Tensor, Tensor]:
    """log(1 + eᵃ) and log σ(a), both to full relative precision for every a."""
    tail = torch.log1p(torch.exp(-a.abs()))
    return a.clamp(min=0) + tail, a.clamp(max=0) - tail


def _select(is_positive: Tensor, plus: Factor, minus: Factor, like: Tensor) -> Factor:
    if plus is minus or (isinstance(plus, float | int) and isinstance(minus, float | int) and plus == minus):
        return plus
    return torch.where(is_positive, _as_tensor(plus, like), _as_tensor(minus, like))


def _as_tensor(factor: Factor, like: Tensor) -> Tensor:
    # A Python number would be selected in float32, whatever the precision of the logits.
    return factor.to(like.dtype) if isinstance(factor, Tensor) else like.new_full((), factor)


def _is_number(factor: Factor, number: float) -> bool:
    return not isinstance(factor, Tensor) and factor == number
