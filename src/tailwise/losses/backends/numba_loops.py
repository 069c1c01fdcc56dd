"""The term of every loss in loops for a CPU, a tile of samples and classes at a time.

The formula is that of :mod:`tailwise.losses.formula`, which explains it. A piece of a row is copied with its labels
and weights to a workspace that fits the first-level cache; value and derivative are then computed in one loop without
branches, which the compiler vectorises.
"""

from __future__ import annotations

import numpy as np

from tailwise.loops import FAST_MATH, compiled, inlined
from tailwise.losses.backends.numba_sum_loops import (
    WIDTH,
    Y,
    Z,
    exp,
    log,
    log1p,
    logistic,
    read,
    read_labels,
    sigmoid,
)

# Further rows of the workspace.
_W, _VALUE, _DERIVATIVE = 2 * WIDTH, 3 * WIDTH, 4 * WIDTH
_SIDES = 5 * WIDTH
_SHIFT, _SLOPE, _INVERSE_DIVISOR, _EXPONENT = _SIDES, _SIDES + WIDTH, _SIDES + 2 * WIDTH, _SIDES + 3 * WIDTH
_NEGATIVE = 4 * WIDTH  # offset from the rows of the positive side
_ROWS = 13

_ZERO, _HALF, _ONE, _TWO = (np.float32(value) for value in (0, 0.5, 1, 2))
_HALF_AN_ULP, _LAST_BIT = np.uint32(0x7FFF), np.uint32(1)
_SIXTEEN = np.uint32(16)

_inlined = inlined(fastmath=FAST_MATH)

NO_FOCAL, FOCAL, SQUARED_FOCAL, PLAIN_FOCAL = 0, 1, 2, 3
"""Softplus without a focal factor, with any exponents, with all exponents 2, which takes no power, and of the plain
logit."""
KINDS = {"margin": 4, "hill": 5}
"""Loops of other kinds of sides."""


def _softplus_side(focal):
    """Build the function of a softplus side for one kind of focal factor, so that its loop has no branch."""

    @_inlined
    def softplus_side(z, sign, shift, slope, inverse_divisor, exponent, _number):
        steepness = sign * slope
        a = steepness * (z - shift)
        value, log_sigma, sigma, complement = logistic(a)
        derivative = steepness * sigma
        if focal:
            focal_steepness = steepness
            if focal == PLAIN_FOCAL:
                _, log_sigma, _, complement = logistic(sign * z)
                focal_steepness = sign
            gamma = _TWO if focal == SQUARED_FOCAL else exponent
            factor = sigma * sigma if focal == SQUARED_FOCAL else exp(gamma * log_sigma)
            derivative = factor * (derivative + focal_steepness * gamma * complement * value)
            value = factor * value
        return value * inverse_divisor, derivative * inverse_divisor

    return softplus_side


@_inlined
def _margin_side(z, sign, shift, slope, inverse_divisor, exponent, margin):
    """−p_m^γ log(1 − p_m) / λ₂ with p_m = max(σ(a) − m, 0)."""
    steepness = sign * slope
    _, _, p, complement = logistic(steepness * (z - shift))
    is_below = p <= margin  # False for NaN
    shifted = _HALF if is_below else p - margin
    complement_log = -(log1p(-shifted) if shifted < _HALF else log(_ONE - shifted))
    power = exp(exponent * log(shifted))
    by_p = power * (exponent * complement_log / shifted + _ONE / (_ONE - shifted))
    value = power * complement_log * inverse_divisor
    derivative = by_p * p * complement * steepness * inverse_divisor
    return (_ZERO if is_below else value), (_ZERO if is_below else derivative)


@_inlined
def _hill_side(z, sign, shift, slope, inverse_divisor, exponent, height):
    """(λ − p) p^γ / λ₂ with p = σ(a)."""
    steepness = sign * slope
    _, log_sigma, p, complement = logistic(steepness * (z - shift))
    rest, power = height - p, exp(exponent * log_sigma) * inverse_divisor
    return rest * power, steepness * complement * power * (exponent * rest - p)


@_inlined
def _write(work, shift, bits):
    """Write a piece of a row as float32, or rounded to bfloat16 (nearest even)."""
    if shift:
        for j in range(len(bits)):
            whole = np.float32(work[_DERIVATIVE + j]).view(np.uint32)
            bits[j] = np.uint32(whole + _HALF_AN_ULP + ((whole >> _SIXTEEN) & _LAST_BIT)) >> _SIXTEEN
    else:
        for j in range(len(bits)):
            bits[j] = np.float32(work[_DERIVATIVE + j]).view(np.uint32)


@_inlined
def _weigh(own, label, smoothing, scale, work, count):
    """Weights of a piece of a row, times the plain factor."""
    if len(smoothing):
        alpha, beta, mu = smoothing[0], smoothing[1], smoothing[2]
        for j in range(count):
            work[_W + j] = scale * (alpha + sigmoid(beta * (own * label[j] - mu)))
    elif len(label):
        for j in range(count):
            work[_W + j] = scale * own * label[j]
    else:
        for j in range(count):
            work[_W + j] = scale * own


@_inlined
def _unlike(work, count):
    """Number of unknown and of soft labels of a piece."""
    unknown, soft = _ZERO, _ZERO
    for j in range(count):
        y = work[Y + j]
        unknown += _ONE if y < _ZERO else _ZERO
        soft += _ONE if y * (_ONE - y) > _ZERO else _ZERO
    return unknown, soft


@_inlined
def _leave_out_unknown(work, count):
    """Set weights, labels and logits of unknown pairs to 0."""
    for j in range(count):
        z, y, w = work[Z + j], work[Y + j], work[_W + j]
        is_known = y >= _ZERO
        work[Z + j], work[Y + j] = (z if is_known else _ZERO), (y if is_known else _ZERO)
        work[_W + j] = w if is_known else _ZERO


def _selection(side):
    """Build the loop over a piece whose labels are 0 or 1, with sides of one kind."""

    @_inlined
    def select_side(work, count, _kind, number):
        for j in range(count):
            # Products, exact if finite: the compiler would turn a choice between numbers in memory into a gather.
            y = work[Y + j]
            rest = _ONE - y
            value, derivative = side(
                work[Z + j],
                rest - y,
                y * work[_SHIFT + j] + rest * work[_NEGATIVE + _SHIFT + j],
                y * work[_SLOPE + j] + rest * work[_NEGATIVE + _SLOPE + j],
                y * work[_INVERSE_DIVISOR + j] + rest * work[_NEGATIVE + _INVERSE_DIVISOR + j],
                y * work[_EXPONENT + j] + rest * work[_NEGATIVE + _EXPONENT + j],
                number,
            )
            weight = work[_W + j]
            work[_VALUE + j], work[_DERIVATIVE + j] = weight * value, weight * derivative

    return select_side


def _positive_share(side):
    """Build the loop that sets value and derivative of a piece to the part y ℓ⁺."""

    @_inlined
    def set_positive_share(work, count, _kind, number):
        for j in range(count):
            shift, slope = work[_SHIFT + j], work[_SLOPE + j]
            inverse, exponent = work[_INVERSE_DIVISOR + j], work[_EXPONENT + j]
            value, derivative = side(work[Z + j], -_ONE, shift, slope, inverse, exponent, number)
            weight = work[_W + j] * work[Y + j]
            work[_VALUE + j], work[_DERIVATIVE + j] = weight * value, weight * derivative

    return set_positive_share


def _negative_share(side):
    """Build the loop that adds the part (1 − y) ℓ⁻ to value and derivative of a piece."""

    @_inlined
    def add_negative_share(work, count, _kind, number):
        for j in range(count):
            shift, slope = work[_NEGATIVE + _SHIFT + j], work[_NEGATIVE + _SLOPE + j]
            inverse, exponent = work[_NEGATIVE + _INVERSE_DIVISOR + j], work[_NEGATIVE + _EXPONENT + j]
            value, derivative = side(work[Z + j], _ONE, shift, slope, inverse, exponent, number)
            weight = work[_W + j] * (_ONE - work[Y + j])
            work[_VALUE + j] += weight * value
            work[_DERIVATIVE + j] += weight * derivative

    return add_negative_share


def _choice(loops):
    """Build the loop that dispatches by kind; the last entry is the default."""
    (kind, loop), *others = loops.items()
    if not others:
        return loop
    other = _choice(dict(others))

    @_inlined
    def choose(work, count, chosen, number):
        if chosen == kind:
            loop(work, count, chosen, number)
        else:
            other(work, count, chosen, number)

    return choose


SIDES = {
    NO_FOCAL: _softplus_side(NO_FOCAL),
    PLAIN_FOCAL: _softplus_side(PLAIN_FOCAL),
    KINDS["margin"]: _margin_side,
    KINDS["hill"]: _hill_side,
    FOCAL: _softplus_side(FOCAL),
}
SELECTIONS = {
    NO_FOCAL: _selection(SIDES[NO_FOCAL]),
    SQUARED_FOCAL: _selection(_softplus_side(SQUARED_FOCAL)),
    PLAIN_FOCAL: _selection(SIDES[PLAIN_FOCAL]),
    FOCAL: _selection(SIDES[FOCAL]),
}
POSITIVE_SHARES = {kind: _positive_share(side) for kind, side in SIDES.items()}
NEGATIVE_SHARES = {kind: _negative_share(side) for kind, side in SIDES.items()}
_select, _set_positive, _add_negative = _choice(SELECTIONS), _choice(POSITIVE_SHARES), _choice(NEGATIVE_SHARES)


@_inlined
def _evaluate_piece(work, count, kinds, numbers):
    """Value and derivative of a piece by the loop for its labels and its loss."""
    unknown, soft = _unlike(work, count)
    if unknown > _ZERO:
        _leave_out_unknown(work, count)
    if soft > _ZERO or kinds[0] != kinds[1] or kinds[0] > PLAIN_FOCAL:
        _set_positive(work, count, kinds[0], numbers[0])
        _add_negative(work, count, kinds[1], numbers[1])
    else:
        _select(work, count, kinds[0], numbers[0])
    return unknown


@_inlined
def _finish(work, count, factor):
    """Sum of the values of a piece; its derivatives are multiplied by the factor."""
    total = _ZERO
    for j in range(count):
        total += work[_VALUE + j]
        work[_DERIVATIVE + j] *= factor
    return total


@compiled(fastmath=FAST_MATH)
def evaluate(
    logits, shift, dense, bounds, columns, entries, mask, sides, sample, label, smoothing, scale, positive_kind,
    negative_kind, positive_number, negative_number, factor, height, gradient, values, totals, known, start, step,
):  # fmt: skip
    """Evaluate the term for every ``step``-th tile from ``start`` on.

    A tile has ``height`` samples and ``WIDTH`` classes; tiles are counted along the classes first.

    Args:
        logits: as in :func:`tailwise.losses.backends.numba_sum_loops.probability_sums`, and likewise ``shift``.
        dense: as in its ``row_sums``, and likewise ``bounds``, ``columns``, ``entries`` and ``mask``.
        sides: (8, C) float32: shift, slope, inverse divisor and exponent of positives, then of negatives.
        sample: (B,) float32 weights of samples, or (0,).
        label: (C,) float32 weights of classes, or (0,).
        smoothing: (3,) α, β and μ that make weights of the products, or (0,).
        scale: a plain factor.
        positive_kind: ``NO_FOCAL``, ``FOCAL``, ``SQUARED_FOCAL``, ``PLAIN_FOCAL``, or one of ``KINDS``.
        negative_kind: likewise; the same where both sides are softplus.
        positive_number: the kind's own parameter.
        negative_number: likewise.
        factor: multiplies the derivative.
        height: samples of a tile.
        gradient: (B, C) bits as the logits, written; (0, 0) for none. It may be the logits.
        values: (B, C) float32, written; (0, 0) for none.
        totals: (T,) float64, written: the sum of each tile.
        known: (T,) int64, written: the number of known pairs of each tile.
        start: the first tile.
        step: from one tile to the next.
    """
    num_samples, num_classes = logits.shape
    across = (num_classes + WIDTH - 1) // WIDTH
    work = np.empty(_ROWS * WIDTH, np.float32)
    kinds, numbers = (positive_kind, negative_kind), (positive_number, negative_number)
    for tile in range(start, len(totals), step):
        top, first = (tile // across) * height, (tile % across) * WIDTH
        bottom, count = min(top + height, num_samples), min(WIDTH, num_classes - first)
        for m in range(8):
            row = _SIDES + m * WIDTH
            work[row : row + count] = sides[m, first : first + count]
        weights = label[first : first + count] if len(label) else label
        total, unknown = 0.0, 0
        for i in range(top, bottom):
            read(logits[i, first : first + count], shift, work)
            read_labels(dense, bounds, columns, entries, mask, i, first, count, work)
            _weigh(sample[i] if len(sample) else _ONE, weights, smoothing, scale, work, count)
            unknown += np.int64(_evaluate_piece(work, count, kinds, numbers))
            total += _finish(work, count, factor)
            if len(gradient):
                _write(work, shift, gradient[i, first : first + count])
            if len(values):
                values[i, first : first + count] = work[_VALUE : _VALUE + count]
        totals[tile] = total
        known[tile] = (bottom - top) * count - unknown
