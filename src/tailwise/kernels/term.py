"""The term of every loss in loops for a CPU, a tile of samples and classes at a time.

The formula is that of :mod:`tailwise.losses.term`, which explains it. A piece of a row is copied to the core's first
cache with its labels and weights; value and derivative are then computed in one loop without branches, which the
compiler turns into vector instructions.
"""

from __future__ import annotations

import numpy as np

from tailwise.kernels.compiling import compiled
from tailwise.kernels.elementary import FAST_MATH, exp, log, log1p, logistic

WIDTH = 512
"""Classes of a piece."""

# Rows of a workspace: one array, so that the compiler knows by their distance that they do not overlap. What a loop
# selects from it reads first: a choice between two numbers is an instruction, a choice between two places a branch.
_SHIFT, _SLOPE, _INVERSE_DIVISOR, _EXPONENT = 0, WIDTH, 2 * WIDTH, 3 * WIDTH
_NEGATIVE = 4 * WIDTH
_Z, _Y, _W, _VALUE, _DERIVATIVE = 8 * WIDTH, 9 * WIDTH, 10 * WIDTH, 11 * WIDTH, 12 * WIDTH
_ROWS = 13

_ZERO, _HALF, _ONE = (np.float32(value) for value in (0, 0.5, 1))
_HALF_AN_ULP, _LAST_BIT = np.uint32(0x7FFF), np.uint32(1)
_SIXTEEN = np.uint32(16)

# A logit that is no number must stay none.
_compiled = compiled(fastmath=FAST_MATH)
_inlined = compiled(fastmath=FAST_MATH, forceinline=True)

NO_FOCAL, FOCAL, SQUARED_FOCAL = 0, 1, 2
"""No focal factor, one with any exponents, or one with all exponents 2, which takes no power."""


def _side_with(focal, plain):
    """Make the function of one side, by its kind of focal factor: a loop has no choice left to make."""

    @_inlined
    def one_side(z, sign, shift, slope, inverse_divisor, exponent):
        steepness = sign * slope
        a = steepness * (z - shift)
        value, log_sigma, sigma, complement = logistic(a)
        derivative = steepness * sigma
        if focal:
            focal_steepness = steepness
            if plain:
                _, log_sigma, _, complement = logistic(sign * z)
                focal_steepness = sign
            factor = sigma * sigma if focal == SQUARED_FOCAL else exp(exponent * log_sigma)
            derivative = factor * (derivative + focal_steepness * exponent * complement * value)
            value = factor * value
        return value * inverse_divisor, derivative * inverse_divisor

    return one_side


@_inlined
def _margin_side(z, shift, slope, inverse_divisor, exponent, margin):
    """Value and derivative of ASL's negative side: −p_m^γ log(1 − p_m) / λ₂ with p_m = max(σ(λ₁ (z − v)) − m, 0)."""
    _, _, p, complement = logistic(slope * (z - shift))
    is_below = p <= margin  # False for what is no number
    shifted = _HALF if is_below else p - margin
    complement_log = -(log1p(-shifted) if shifted < _HALF else log(_ONE - shifted))
    power = exp(exponent * log(shifted))
    by_p = power * (exponent * complement_log / shifted + _ONE / (_ONE - shifted))
    value = power * complement_log * inverse_divisor
    derivative = by_p * p * complement * slope * inverse_divisor
    return (_ZERO if is_below else value), (_ZERO if is_below else derivative)


@_compiled
def _read(bits, shift, work):
    """Copy a piece of a row of float32 (shift 0) or bfloat16 (shift 16) numbers, given by their bits."""
    for j in range(len(bits)):
        work[_Z + j] = np.uint32(np.uint32(bits[j]) << shift).view(np.float32)


@_compiled
def _write(work, shift, bits):
    """Write a piece of a row as float32, or rounded to bfloat16, to the nearest and to even."""
    if shift:
        for j in range(len(bits)):
            whole = np.float32(work[_DERIVATIVE + j]).view(np.uint32)
            bits[j] = np.uint32(whole + _HALF_AN_ULP + ((whole >> _SIXTEEN) & _LAST_BIT)) >> _SIXTEEN
    else:
        for j in range(len(bits)):
            bits[j] = np.float32(work[_DERIVATIVE + j]).view(np.uint32)


@_compiled
def _read_labels(dense, bounds, columns, entries, mask, i, start, count, work):
    """Copy a piece of a row of labels, dense or sparse; unknown ones become −1."""
    if len(bounds):
        for j in range(count):
            work[_Y + j] = _ZERO
        first, last = bounds[i], bounds[i + 1]
        k = first + np.searchsorted(columns[first:last], start)
        while k < last and columns[k] < start + count:
            work[_Y + columns[k] - start] = entries[k] if entries[k] >= 0 else -_ONE
            k += 1
    else:
        row = dense[i, start : start + count]
        for j in range(len(row)):
            y = np.float32(row[j])
            work[_Y + j] = y if y >= _ZERO else -_ONE  # what is no number is unknown too
    if len(mask):
        is_known = mask[i, start : start + count]
        for j in range(len(is_known)):
            y = work[_Y + j]
            work[_Y + j] = y if is_known[j] else -_ONE


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
                known = mask[i] if len(mask) else mask[:0, 0]
                result[i, m] = _sparse_row_sum(columns[first:last], entries[first:last], known, values[m])
            elif len(mask):
                result[i, m] = _masked_row_sum(dense[i], mask[i], values[m])
            else:
                result[i, m] = _row_sum(dense[i], values[m])


@_compiled
def _row_sum(labels, values):
    total = _ZERO
    for j in range(len(labels)):
        y = np.float32(labels[j])
        total += (y if y > _ZERO else _ZERO) * values[j]  # neither −1 nor what is no number is above 0
    return total


@_compiled
def _masked_row_sum(labels, is_known, values):
    total = _ZERO
    for j in range(len(labels)):
        y = np.float32(labels[j])
        total += (y if is_known[j] and y > _ZERO else _ZERO) * values[j]
    return total


@_compiled
def _sparse_row_sum(columns, entries, is_known, values):
    total = _ZERO
    for k in range(len(columns)):
        y, j = np.float32(entries[k]), columns[k]
        if y > _ZERO and (len(is_known) == 0 or is_known[j]):
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
    work = np.empty(_ROWS * WIDTH, np.float32)
    for first in range(start * WIDTH, num_classes, step * WIDTH):
        count = min(WIDTH, num_classes - first)
        work[: 4 * WIDTH] = _ZERO
        for i in range(num_samples):
            _read(logits[i, first : first + count], shift, work)
            _read_labels(dense, bounds, columns, entries, mask, i, first, count, work)
            _add_probabilities(work, count)
        for m in range(4):
            result[m, first : first + count] = work[m * WIDTH : m * WIDTH + count]


@_compiled
def _add_probabilities(work, count):
    """Add the probabilities and labels of a piece to the four sums, which are the first rows."""
    for j in range(count):
        z, y = work[_Z + j], work[_Y + j]
        e = exp(-abs(z))
        p = (_ONE if z > _ZERO else e) / (_ONE + e)
        is_known = y >= _ZERO
        up, down = (y if is_known else _ZERO), (_ONE - y if is_known else _ZERO)
        p = p if is_known else _ZERO  # whatever an unknown pair's logit is
        work[j] += p * up
        work[WIDTH + j] += up
        work[2 * WIDTH + j] += p * down
        work[3 * WIDTH + j] += down


@_compiled
def _weigh(own, label, smoothing, scale, work, count):
    """Weights of a piece of a row, times the plain factor."""
    if len(smoothing):
        alpha, beta, mu = smoothing[0], smoothing[1], smoothing[2]
        for j in range(count):
            x = beta * (own * label[j] - mu)
            e = exp(-abs(x))
            work[_W + j] = scale * (alpha + (_ONE if x > _ZERO else e) / (_ONE + e))
    elif len(label):
        for j in range(count):
            work[_W + j] = scale * own * label[j]
    else:
        for j in range(count):
            work[_W + j] = scale * own


@_compiled
def _unlike(work, count):
    """Number of unknown and of soft labels of a piece."""
    unknown, soft = _ZERO, _ZERO
    for j in range(count):
        y = work[_Y + j]
        unknown += _ONE if y < _ZERO else _ZERO
        soft += _ONE if y * (_ONE - y) > _ZERO else _ZERO
    return unknown, soft


@_compiled
def _leave_out_unknown(work, count):
    """Make the weights of unknown pairs 0; their logits too, whatever they are."""
    for j in range(count):
        z, y, w = work[_Z + j], work[_Y + j], work[_W + j]
        is_known = y >= _ZERO
        work[_Z + j], work[_Y + j] = (z if is_known else _ZERO), (y if is_known else _ZERO)
        work[_W + j] = w if is_known else _ZERO


def _loops_with(focal, plain):
    """Make the loop over a piece whose labels are 0 or 1, and those of both parts, y ℓ⁺ and (1 − y) ℓ⁻, of others."""
    one_side = _side_with(focal, plain)

    @_compiled
    def select_side(work, count):
        for j in range(count):
            up = work[_Y + j] > _ZERO
            shift, other_shift = work[_SHIFT + j], work[_NEGATIVE + _SHIFT + j]
            slope, other_slope = work[_SLOPE + j], work[_NEGATIVE + _SLOPE + j]
            inverse, other_inverse = work[_INVERSE_DIVISOR + j], work[_NEGATIVE + _INVERSE_DIVISOR + j]
            exponent, other_exponent = work[_EXPONENT + j], work[_NEGATIVE + _EXPONENT + j]
            value, derivative = one_side(
                work[_Z + j],
                -_ONE if up else _ONE,
                shift if up else other_shift,
                slope if up else other_slope,
                inverse if up else other_inverse,
                exponent if up else other_exponent,
            )
            weight = work[_W + j]
            work[_VALUE + j], work[_DERIVATIVE + j] = weight * value, weight * derivative

    @_compiled
    def positive_share(work, count):
        for j in range(count):
            shift, slope = work[_SHIFT + j], work[_SLOPE + j]
            inverse, exponent = work[_INVERSE_DIVISOR + j], work[_EXPONENT + j]
            value, derivative = one_side(work[_Z + j], -_ONE, shift, slope, inverse, exponent)
            weight = work[_W + j] * work[_Y + j]
            work[_VALUE + j], work[_DERIVATIVE + j] = weight * value, weight * derivative

    @_compiled
    def add_negative_share(work, count):
        for j in range(count):
            shift, slope = work[_NEGATIVE + _SHIFT + j], work[_NEGATIVE + _SLOPE + j]
            inverse, exponent = work[_NEGATIVE + _INVERSE_DIVISOR + j], work[_NEGATIVE + _EXPONENT + j]
            value, derivative = one_side(work[_Z + j], _ONE, shift, slope, inverse, exponent)
            weight = work[_W + j] * (_ONE - work[_Y + j])
            work[_VALUE + j] += weight * value
            work[_DERIVATIVE + j] += weight * derivative

    return select_side, positive_share, add_negative_share


_select_side, _positive_share, _add_negative_share = _loops_with(NO_FOCAL, False)
_select_focal_side, _positive_focal_share, _add_negative_focal_share = _loops_with(FOCAL, False)
_select_squared_side, _, _ = _loops_with(SQUARED_FOCAL, False)
_select_plain_side, _positive_plain_share, _add_negative_plain_share = _loops_with(FOCAL, True)


@_compiled
def _add_margin_share(work, count, margin):
    """Add the part (1 − y) ℓ⁻ of ASL to value and derivative of a piece."""
    for j in range(count):
        shift, slope = work[_NEGATIVE + _SHIFT + j], work[_NEGATIVE + _SLOPE + j]
        inverse, exponent = work[_NEGATIVE + _INVERSE_DIVISOR + j], work[_NEGATIVE + _EXPONENT + j]
        value, derivative = _margin_side(work[_Z + j], shift, slope, inverse, exponent, margin)
        weight = work[_W + j] * (_ONE - work[_Y + j])
        work[_VALUE + j] += weight * value
        work[_DERIVATIVE + j] += weight * derivative


@_compiled
def _both_sides(work, count, margin, focal, plain):
    """Value and derivative of a piece with soft labels, or with a margin: both sides of each."""
    if focal == NO_FOCAL:
        _positive_share(work, count)
    elif plain:
        _positive_plain_share(work, count)
    else:
        _positive_focal_share(work, count)
    if margin > _ZERO:
        _add_margin_share(work, count, margin)
    elif focal == NO_FOCAL:
        _add_negative_share(work, count)
    elif plain:
        _add_negative_plain_share(work, count)
    else:
        _add_negative_focal_share(work, count)


@_compiled
def _evaluate_piece(work, count, margin, focal, plain):
    """Value and derivative of a piece by the loop that its labels and its loss take."""
    unknown, soft = _unlike(work, count)
    if unknown > _ZERO:
        _leave_out_unknown(work, count)
    if margin > _ZERO or soft > _ZERO:
        _both_sides(work, count, margin, focal, plain)
    elif focal == NO_FOCAL:
        _select_side(work, count)
    elif focal == SQUARED_FOCAL:
        _select_squared_side(work, count)
    elif plain:
        _select_plain_side(work, count)
    else:
        _select_focal_side(work, count)
    return unknown


@_compiled
def _finish(work, count, factor):
    """Sum of the values of a piece; its derivatives are multiplied by the factor."""
    total = _ZERO
    for j in range(count):
        total += work[_VALUE + j]
        work[_DERIVATIVE + j] *= factor
    return total


@_compiled
def evaluate(
    logits, shift, dense, bounds, columns, entries, mask, sides, sample, label, smoothing, scale, margin, focal, plain,
    factor, height, gradient, values, totals, known, start, step,
):  # fmt: skip
    """Evaluate the term for every ``step``-th tile from ``start`` on.

    A tile has ``height`` samples and ``WIDTH`` classes; tiles are counted along the classes first.

    Args:
        logits: as in :func:`probability_sums`, and likewise ``shift``.
        dense: as in :func:`row_sums`, and likewise ``bounds``, ``columns``, ``entries`` and ``mask``.
        sides: (8, C) float32: shift, slope, inverse divisor and exponent of positives, then of negatives.
        sample: (B,) float32 weights of samples, or (0,).
        label: (C,) float32 weights of classes, or (0,).
        smoothing: (3,) α, β and μ that make weights of the products, or (0,).
        scale: a plain factor.
        margin: of ASL, 0 for none.
        focal: ``NO_FOCAL``, ``FOCAL``, or ``SQUARED_FOCAL``, which must not be plain.
        plain: whether the focal factor takes the plain logit.
        factor: multiplies the derivative.
        height: samples of a tile.
        gradient: (B, C) bits as the logits, written; (0, 0) if it is not wanted. It may be the logits.
        values: (B, C) float32, written; (0, 0) if they are not wanted.
        totals: (T,) float64, written: the sum of each tile.
        known: (T,) int64, written: the number of known pairs of each tile.
        start: the first tile.
        step: from one tile to the next.
    """
    num_samples, num_classes = logits.shape
    across = (num_classes + WIDTH - 1) // WIDTH
    work = np.empty(_ROWS * WIDTH, np.float32)
    for tile in range(start, len(totals), step):
        top, first = (tile // across) * height, (tile % across) * WIDTH
        bottom, count = min(top + height, num_samples), min(WIDTH, num_classes - first)
        for m in range(8):
            work[m * WIDTH : m * WIDTH + count] = sides[m, first : first + count]
        weights = label[first : first + count] if len(label) else label
        total, unknown = 0.0, 0
        for i in range(top, bottom):
            _read(logits[i, first : first + count], shift, work)
            _read_labels(dense, bounds, columns, entries, mask, i, first, count, work)
            _weigh(sample[i] if len(sample) else _ONE, weights, smoothing, scale, work, count)
            unknown += np.int64(_evaluate_piece(work, count, margin, focal, plain))
            total += _finish(work, count, factor)
            if len(gradient):
                _write(work, shift, gradient[i, first : first + count])
            if len(values):
                values[i, first : first + count] = work[_VALUE : _VALUE + count]
        totals[tile] = total
        known[tile] = (bottom - top) * count - unknown
