"""Sums that weights and guidance follow from, in loops for a CPU: over the labels of a sample, and of a class."""

from __future__ import annotations

import numpy as np

from tailwise.kernels.compiling import compiled, inlined
from tailwise.kernels.elementary import FAST_MATH, sigmoid
from tailwise.kernels.pieces import WIDTH, Y, Z, read, read_labels

_SUMS = 2 * WIDTH  # four rows, behind the logits and labels

_ZERO, _ONE = np.float32(0), np.float32(1)

_compiled = compiled(fastmath=FAST_MATH)
_inlined = inlined(fastmath=FAST_MATH)


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
        total += (y if y > _ZERO else _ZERO) * values[j]  # neither −1 nor what is no number is above 0
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
        p = sigmoid(z) if is_known else _ZERO  # whatever an unknown pair's logit is
        work[_SUMS + j] += p * up
        work[_SUMS + WIDTH + j] += up
        work[_SUMS + 2 * WIDTH + j] += p * down
        work[_SUMS + 3 * WIDTH + j] += down
