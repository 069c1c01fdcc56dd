"""Elementary functions, pieces of rows, and sums over labels, in loops for a CPU.

The functions have neither branches nor calls, so that the compiler makes vector instructions of a loop with them.
"""

from __future__ import annotations

import numpy as np

from tailwise.loops import FAST_MATH, compiled, inlined

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

_compiled = compiled(fastmath=FAST_MATH)
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
    """σ(x); NaN where x is NaN."""
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
    # Comparisons, not max and min, which would make 0 of NaN.
    above, below = (_ZERO if a < _ZERO else a), (_ZERO if a > _ZERO else a)
    return above + tail, below - tail, (larger if a > _ZERO else smaller), (smaller if a > _ZERO else larger)


WIDTH = 512
"""Classes of a piece."""

# Rows of a workspace: one array, so that the compiler knows by their distance that they do not overlap.
Z, Y = 0, WIDTH
"""Where the logits and the labels of a piece are; a loop has further rows behind them."""


@_inlined
def read(bits, shift, work):
    """Copy a piece of a row of float32 (shift 0) or bfloat16 (shift 16) numbers, given by their bits."""
    for j in range(len(bits)):
        work[Z + j] = np.uint32(np.uint32(bits[j]) << shift).view(np.float32)


@_inlined
def read_labels(dense, bounds, columns, entries, mask, i, start, count, work):
    """Copy a piece of a row of labels, dense or sparse; unknown ones become −1."""
    if len(bounds):
        first, last = bounds[i], bounds[i + 1]
        _read_sparse(columns[first:last], entries[first:last], start, count, work)
    else:
        _read_dense(dense[i, start : start + count], work)
    if len(mask):
        _read_mask(mask[i, start : start + count], work)


@_inlined
def _label(y):
    """A label of at most 1, for counts stand for 1, or −1 where it is unknown: below 0, or NaN."""
    return (_ONE if y > _ONE else y) if y >= _ZERO else -_ONE


@_inlined
def _read_sparse(columns, entries, start, count, work):
    for j in range(count):
        work[Y + j] = _ZERO
    k = np.searchsorted(columns, start)
    while k < len(columns) and columns[k] < start + count:
        work[Y + columns[k] - start] = _label(np.float32(entries[k]))
        k += 1


@_inlined
def _read_dense(labels, work):
    for j in range(len(labels)):
        work[Y + j] = _label(np.float32(labels[j]))


@_inlined
def _read_mask(is_known, work):
    for j in range(len(is_known)):
        y = work[Y + j]
        work[Y + j] = y if is_known[j] else -_ONE


_SUMS = 2 * WIDTH  # four rows, behind the logits and labels


@_compiled
def row_sums(dense, bounds, columns, entries, mask, values, result, start, step):
    """Σ_k y_ik u_mk over known labels, for every ``step``-th sample from ``start`` on.

    Args:
        dense: (B, C) int8 or float32 labels; (0, 0) if they are sparse.
        bounds: (B + 1,) where each sample's entries begin; (0,) if labels are dense.
        columns: (E,) classes of the entries, rising within a sample.
        entries: (E,) int8 or float32 labels.
        mask: (B, C) bool; (0, 0) for none.
        values: (M, C) float32.
        result: (B, M) float32, written.
        start: the first sample.
        step: from one sample to the next.
    """
    for i in range(start, len(result), step):
        for m in range(len(values)):
            if len(bounds):
                first, last = bounds[i], bounds[i + 1]
                result[i, m] = _sparse_row_sum(columns[first:last], entries[first:last], mask, i, values[m])
            elif len(mask):
                result[i, m] = _masked_row_sum(dense[i], mask[i], values[m])
            else:
                result[i, m] = _row_sum(dense[i], values[m])


@_inlined
def _row_sum(labels, values):
    total = _ZERO
    for j in range(len(labels)):
        y = np.float32(labels[j])
        total += (y if y > _ZERO else _ZERO) * values[j]  # neither −1 nor NaN is above 0
    return total


@_inlined
def _masked_row_sum(labels, is_known, values):
    total = _ZERO
    for j in range(len(labels)):
        y = np.float32(labels[j])
        total += (y if is_known[j] and y > _ZERO else _ZERO) * values[j]
    return total


@_inlined
def _sparse_row_sum(columns, entries, mask, i, values):
    total = _ZERO
    for k in range(len(columns)):
        y, j = np.float32(entries[k]), columns[k]
        if y > _ZERO and j < len(values) and (len(mask) == 0 or mask[i, j]):
            total += y * values[j]
    return total


@_compiled
def probability_sums(logits, shift, dense, bounds, columns, entries, mask, result, start, step):
    """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) of each class, for every ``step``-th piece of classes from ``start`` on.

    Args:
        logits: (B, C) bits of the logits: uint32 of float32, or uint16 of bfloat16.
        shift: 0, or 16 for bfloat16.
        dense: as in :func:`row_sums`, and likewise ``bounds``, ``columns``, ``entries`` and ``mask``.
        result: (4, C) float32, written.
        start: the first piece.
        step: from one piece to the next.
    """
    num_samples, num_classes = logits.shape
    work = np.empty(6 * WIDTH, np.float32)
    for first in range(start * WIDTH, num_classes, step * WIDTH):
        count = min(WIDTH, num_classes - first)
        work[_SUMS:] = _ZERO
        for i in range(num_samples):
            read(logits[i, first : first + count], shift, work)
            read_labels(dense, bounds, columns, entries, mask, i, first, count, work)
            _add_probabilities(work, count)
        for m in range(4):
            row = _SUMS + m * WIDTH
            result[m, first : first + count] = work[row : row + count]


@_inlined
def _add_probabilities(work, count):
    """Add the probabilities and labels of a piece to the four sums."""
    for j in range(count):
        z, y = work[Z + j], work[Y + j]
        is_known = y >= _ZERO
        up, down = (y if is_known else _ZERO), (_ONE - y if is_known else _ZERO)
        p = sigmoid(z) if is_known else _ZERO  # also where an unknown pair's logit is NaN
        work[_SUMS + j] += p * up
        work[_SUMS + WIDTH + j] += up
        work[_SUMS + 2 * WIDTH + j] += p * down
        work[_SUMS + 3 * WIDTH + j] += down
