"""Logarithm and logistic function for Triton kernels, in units of ln 2, which a GPU's own instructions have."""

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
    """sp and log σ, and their argument, in units of ln 2; no number where it is none."""
    tail = log2_of_1_plus(tl.exp2(-tl.abs(a)))
    return tl.maximum(a, 0.0) + tail, tl.minimum(a, 0.0) - tail
