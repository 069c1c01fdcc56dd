"""Average precision of many weightings of the same ranking."""

from __future__ import annotations

import numpy as np

from tailwise.kernels.compiling import compiled


@compiled()
def weighted_precision(order, ends, positive, weights, result):
    """Average precision of one class for every column of weights; the ranking is gone through once.

    Weights are whole numbers, so that all but the last division and sum are exact, and rows of the same score count
    together, whatever their order.

    Args:
        order: (n,) rows by falling score.
        ends: (n,) bool: whether the next score differs.
        positive: (n,) bool: labels in that order.
        weights: (N, B) whole weights of the rows.
        result: (B,) float64, written: NaN where no positive has a weight.
    """
    num_columns = weights.shape[1]
    ranked, hits = np.zeros(num_columns, np.int64), np.zeros(num_columns, np.int64)
    tied = np.zeros(num_columns, np.int64)
    area = np.zeros(num_columns, np.float64)
    has_tied = False
    for i in range(len(order)):
        row = weights[order[i]]
        for b in range(num_columns):
            ranked[b] += row[b]
        if positive[i]:
            has_tied = True
            for b in range(num_columns):
                tied[b] += row[b]
        if ends[i] and has_tied:
            for b in range(num_columns):
                hits[b] += tied[b]
                area[b] += tied[b] * hits[b] / max(ranked[b], 1)
                tied[b] = 0
            has_tied = False
    for b in range(num_columns):
        result[b] = area[b] / hits[b] if hits[b] > 0 else np.nan
