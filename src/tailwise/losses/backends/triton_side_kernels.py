"""Elementary functions and the kinds of sides for Triton kernels, in units of ln 2, as the instructions of a GPU."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E, LN_2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)

# log₂(1 + t) = t q(t) for 0 ≤ t ≤ 1: q interpolates at Chebyshev's points, highest power first, and is exact to 4e-8.
_Q = tl.constexpr(
    (
        *(0.00739540214, -0.0419450089, 0.111832074, -0.196238952, 0.275221212),
        *(-0.35829907, 0.48067889, -0.721339513, 1.44269499),
    )
)


@triton.jit
def reciprocal(x):
    """1 / x for normal numbers x > 0 and for ∞, in two instructions where a division takes eight."""
    root = tl.rsqrt(x)
    return root * root


@triton.jit
def log2_of_1_plus(t):
    """log₂(1 + t) for 0 ≤ t ≤ 1, to full relative precision."""
    q = t * _Q[0] + _Q[1]
    for power in tl.static_range(2, 9):
        q = q * t + _Q[power]
    return q * t


@triton.jit
def log2(x):
    """log₂ x for normal numbers x > 0, with an absolute error of 1e-7: half the instructions of the library's."""
    bits = x.to(tl.int32, bitcast=True)
    mantissa = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    return ((bits >> 23) - 127).to(tl.float32) + log2_of_1_plus(mantissa - 1.0)


@triton.jit
def sigmoid(a):
    """σ of an argument in units of ln 2; where the power overflows, the quotient is 0 as it should be."""
    return reciprocal(1.0 + tl.exp2(-a))


@triton.jit
def softplus_and_log_sigmoid(a):
    """sp and log σ, and their argument, in units of ln 2; NaN where it is NaN."""
    tail = log2_of_1_plus(tl.exp2(-tl.abs(a)))
    return tl.maximum(a, 0.0) + tail, tl.minimum(a, 0.0) - tail


@triton.jit
def _softplus_side(z, sign, shift, steepness, exponent, FOCAL: tl.constexpr, PLAIN: tl.constexpr):
    """sp(a) σ(b)^γ with a = s λ₁ (z − v), and b = a or, if PLAIN, s z."""
    value, log_sigmoid = softplus_and_log_sigmoid(steepness * (z - shift))
    derivative = steepness * tl.exp2(log_sigmoid)
    if FOCAL:
        if PLAIN:
            complement_log, focal_log = softplus_and_log_sigmoid(z * sign * LOG2_E)
            focal_steepness = sign
        else:
            complement_log, focal_log = value, log_sigmoid
            focal_steepness = steepness * LN_2
        focal = tl.exp2(exponent * focal_log)
        # 1 − σ = 2^−sp: exact also where σ rounds to 1.
        derivative = focal * (derivative + focal_steepness * (exponent * tl.exp2(-complement_log) * value))
        value = focal * value
    return value, derivative


@triton.jit
def _margin_side(z, shift, steepness, exponent, margin):
    """−p_m^γ log(1 − p_m) with p_m = max(σ(a) − m, 0)."""
    a = steepness * (z - shift)
    p, complement = sigmoid(a), sigmoid(-a)
    is_below = p <= margin  # False for NaN
    shifted = tl.where(is_below, 0.5, p - margin)
    rest = tl.where(is_below, 0.5, complement + margin)
    # log(1 − p_m) = −log(1 + p_m / (1 − p_m)), which keeps its digits where p_m is small.
    inverse_rest = reciprocal(rest)
    complement_log = tl.where(shifted > 0.5, -log2(rest), log2_of_1_plus(shifted * inverse_rest))
    power = tl.exp2(exponent * log2(shifted))
    by_p = exponent * complement_log * reciprocal(shifted) + inverse_rest * LOG2_E
    derivative = power * by_p * p * complement * steepness * LN_2
    return tl.where(is_below, 0.0, power * complement_log), tl.where(is_below, 0.0, derivative)


@triton.jit
def _hill_side(z, shift, steepness, exponent, height):
    """(λ − p) p^γ with p = σ(a)."""
    softplus, log_sigmoid = softplus_and_log_sigmoid(steepness * (z - shift))
    p, power = tl.exp2(log_sigmoid), tl.exp2(exponent * log_sigmoid)
    rest = height - p
    return rest * power * LOG2_E, steepness * tl.exp2(-softplus) * power * (exponent * rest - p)


@triton.jit
def side(
    z, sign, shift, steepness, inverse_divisor, exponent, number, KIND: tl.constexpr, FOCAL: tl.constexpr,
    PLAIN: tl.constexpr,
):  # fmt: skip
    """Value and derivative by z of one side, both in units of ln 2 before ``inverse_divisor``.

    Args:
        z: logits.
        sign: s, of a = s λ₁ (z − v).
        shift: v.
        steepness: s λ₁ / ln 2.
        inverse_divisor: ln 2 / λ₂, times a weight.
        exponent: γ.
        number: the kind's own parameter.
        KIND: of :data:`tailwise.losses.formula.KINDS`.
        FOCAL: whether γ is not 0.
        PLAIN: whether the focal factor of a softplus side takes the plain logit.
    """
    if KIND == "margin":
        value, derivative = _margin_side(z, shift, steepness, exponent, number)
    elif KIND == "hill":
        value, derivative = _hill_side(z, shift, steepness, exponent, number)
    else:
        value, derivative = _softplus_side(z, sign, shift, steepness, exponent, FOCAL, PLAIN)
    return value * inverse_divisor, derivative * inverse_divisor
