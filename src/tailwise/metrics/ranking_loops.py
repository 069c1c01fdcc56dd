"""Compiled loops of average precision: ranks among the positives, and many weightings of one ranking."""

from __future__ import annotations

import numpy as np

from tailwise.loops import compiled

_STRETCH = 512


@compiled()
def weighted_precision(order, ends, positive, weights, result):
    """Average precision of one class for every column of weights; in one pass over the ranking.

    Weights are whole numbers, so that all but the last division and sum are exact, and rows of the same score count
    together, in any order.

    Args:
        order: (n,) rows by falling score.
        ends: (n,) bool: whether the next score differs.
        positive: (n,) bool: labels in that order.
        weights: (N, B) integer weights of the rows.
        result: (B,) float64, written: NaN where no positive or no negative has a weight.
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
        # Ranked rows that are not hits are negatives; without one, nothing could be ranked wrongly.
        result[b] = area[b] / hits[b] if 0 < hits[b] < ranked[b] else np.nan


@compiled()
def count_by_placing(scores, known, table, starts, counts):
    """Count, for each positive of each class, the known scores that are at least its own and below the next one's.

    Of positives with equal scores, the last one counts. Scores below the lowest positive take one comparison, the
    others a binary search, whose steps are vectorised over a block of scores.

    Args:
        scores: (C, n) real numbers, none of them NaN.
        known: (C, n) bool: the others are left out.
        table: (P,) scores of the positives, rising in each class.
        starts: (C + 1,) where each class begins in the table, and the last one ends.
        counts: (P,) int64, added to.
    """
    place, kept = np.empty(_STRETCH, np.uint32), np.empty(_STRETCH, scores.dtype)
    for c in range(scores.shape[0]):
        positives, count = table[starts[c] : starts[c + 1]], counts[starts[c] : starts[c + 1]]
        if len(positives) == 0:
            continue
        for start in range(0, scores.shape[1], _STRETCH):
            row, is_known = scores[c, start : start + _STRETCH], known[c, start : start + _STRETCH]
            num_kept = 0
            for i in range(len(row)):
                kept[num_kept] = row[i]
                num_kept += is_known[i] & (row[i] >= positives[0])
            values = kept[:num_kept]
            place[:] = 0
            left = np.uint32(len(positives))
            while left > 1:
                half = np.uint32(left >> 1)
                for i in range(len(values)):
                    ahead = np.uint32(place[i] + half)
                    place[i] = ahead if positives[ahead] <= values[i] else place[i]
                left = np.uint32(left - half)
            for i in range(len(values)):
                count[place[i]] += 1
