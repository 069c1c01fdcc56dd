"""Pieces of rows, copied to a workspace in the core's first cache, where loops become vector instructions."""

from __future__ import annotations

import numpy as np

from tailwise.kernels.compiling import inlined
from tailwise.kernels.elementary import FAST_MATH

WIDTH = 512
"""Classes of a piece."""

# Rows of a workspace: one array, so that the compiler knows by their distance that they do not overlap.
Z, Y = 0, WIDTH
"""Where the logits and the labels of a piece are; a loop has further rows behind them."""

_ZERO, _ONE = np.float32(0), np.float32(1)

_inlined = inlined(fastmath=FAST_MATH)


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
    """A label of at most 1, for counts stand for 1, or −1 where it is unknown: below 0, or no number."""
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
