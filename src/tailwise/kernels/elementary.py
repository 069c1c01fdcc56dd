"""Exponential, logarithm and logistic function for the loops of a CPU, without branches and calls.

The compiler makes vector instructions of them where they are called in a loop; a call of the library's would end that.
"""

from __future__ import annotations

import numpy as np

from tailwise.kernels.compiling import inlined

_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
_LOWEST = np.float32(-87)
_LOG2_E = np.float32(1.44269504088896341)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_BIAS, _MANTISSA = np.int32(127), np.int32(23)
# exp(r) = 1 + r + r² q(r) for |r| ≤ ln 2 / 2, and 2 artanh(s) = s (2 + s² q(s²)) for |s| ≤ 1/3: q interpolates at
# Chebyshev's points, highest power first; both are exact to 2e-8.
_EXP = tuple(np.float32(c) for c in (1.39336501e-03, 8.36317829e-03, 4.16664649e-02, 1.66665772e-01, 4.99999994e-01))
_ARTANH = tuple(np.float32(c) for c in (2.68675486e-01, 2.82339557e-01, 4.00076706e-01, 6.66666404e-01))

_ROOT_HALF_BITS = np.int32(0x3F3504F3)

# Sums may be taken in any order, and products joined to them; a number that is none must stay so.
FAST_MATH = {"reassoc", "contract", "nsz", "arcp"}
_inlined = inlined(fastmath=FAST_MATH)


@_inlined
def exp(x):
    """eˣ for x ≤ 0; 0 below −87, where it leaves the normal numbers."""
    held = _LOWEST if x < _LOWEST else x
    n = np.floor(held * _LOG2_E + _HALF)
    r = (held - n * _LN2_HIGH) - n * _LN2_LOW
    q = _EXP[0]
    q = q * r + _EXP[1]
    q = q * r + _EXP[2]
    q = q * r + _EXP[3]
    q = q * r + _EXP[4]
    power = np.int32((np.int32(n) + _BIAS) << _MANTISSA).view(np.float32)
    return _ZERO if x < _LOWEST else (q * r * r + r + _ONE) * power


@_inlined
def sigmoid(x):
    """σ(x); no number where x is none."""
    e = exp(-abs(x))
    return (_ONE if x > _ZERO else e) / (_ONE + e)


@_inlined
def _twice_artanh(s):
    """2 artanh(s) = log((1 + s) / (1 − s)) for |s| ≤ 1/3."""
    square = s * s
    q = _ARTANH[0]
    q = q * square + _ARTANH[1]
    q = q * square + _ARTANH[2]
    q = q * square + _ARTANH[3]
    return (q * square + _TWO) * s


@_inlined
def log1p(t):
    """log(1 + t) for −1/2 ≤ t ≤ 1."""
    return _twice_artanh(t / (_TWO + t))


@_inlined
def log(x):
    """log x for normal numbers x > 0."""
    bits = np.float32(x).view(np.int32)
    exponent = np.int32((bits - _ROOT_HALF_BITS) >> _MANTISSA)
    m = np.int32(bits - np.int32(exponent << _MANTISSA)).view(np.float32)
    n = np.float32(exponent)
    return n * _LN2_HIGH + (n * _LN2_LOW + _twice_artanh((m - _ONE) / (m + _ONE)))


@_inlined
def logistic(a):
    """log(1 + eᵃ), log σ(a), σ(a) and 1 − σ(a)."""
    e = exp(-abs(a))
    # One division for e / (2 + e), which the logarithm takes, and 1 / (1 + e).
    shared = _ONE / ((_TWO + e) * (_ONE + e))
    tail, larger = _twice_artanh(e * (_ONE + e) * shared), (_TWO + e) * shared
    smaller = e * larger
    # Comparisons, not max and min, which would make 0 of what is no number.
    above, below = (_ZERO if a < _ZERO else a), (_ZERO if a > _ZERO else a)
    return above + tail, below - tail, (larger if a > _ZERO else smaller), (smaller if a > _ZERO else larger)
