"""Pairs of classes that are positive together: the most frequent, the most telling, and those far beyond chance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tailwise.shapes import Float, Int

_BLOCK_ELEMENTS = 1 << 22
_Counts: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ClassPairs:
    """P pairs of classes, the rarer of the two first, best pair first.

    Attributes:
        first: (P,) index of the rarer class; of the lower index where both are equally frequent.
        second: (P,) index of the other class.
        counts: (P,) images in which both are positive.
        share: (P,) p(second | first): the share of the images of ``first`` that have ``second`` too.
        reverse_share: (P,) p(first | second), never above ``share``.
        lift: (P,) p(first, second) / (p(first) p(second)): how many times more often the two occur together than if
            they were independent.
    """

    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    counts: Int[np.ndarray, " P"]
    share: Float[np.ndarray, " P"]
    reverse_share: Float[np.ndarray, " P"]
    lift: Float[np.ndarray, " P"]

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True, eq=False)
class Cooccurrence:
    """The most notable pairs, and each class's most frequent companion.

    Attributes:
        by_count: the most frequent pairs.
        by_share: the pairs in which the rarer class predicts the other best.
        by_lift: the pairs that occur together most often beyond chance.
        top: the most pairs that each of them holds.
        min_count: images a pair must have in common to be in ``by_share`` or ``by_lift``.
        num_pairs: pairs of distinct classes that have an image in common.
        companions: (K,) the class that each class is most often together with, the lowest index among equals; -1 for
            a class that is always alone.
        companion_counts: (K,) images that each class and its companion have in common.
    """

    by_count: ClassPairs
    by_share: ClassPairs
    by_lift: ClassPairs
    top: int
    min_count: int
    num_pairs: int
    companions: Int[np.ndarray, " K"]
    companion_counts: Int[np.ndarray, " K"]


def count_pairs(positives: sparse.csr_array, *, top: int = 100, min_count: int = 5) -> Cooccurrence:
    """Count how often classes are positive together.

    The K × K matrix of counts is made in blocks of rows, one at a time, so that memory stays bounded for any K.

    Args:
        positives: (N, K) int32, 1 where a label is positive, nothing stored elsewhere, no entry stored twice.
        top: P, the most pairs to keep in each order. Equals are ordered by count, then by the classes' indices.
        min_count: images a pair must have in common to be ranked by share or lift: rare classes occur together with
            an enormous lift by chance.
    """
    num_images, num_classes = positives.shape
    by_class = positives.T.tocsr()
    n = np.diff(by_class.indptr).astype(np.int64)
    frequency = _Ranking(lambda _first, _second, count: count.astype(np.float64), top)
    share = _Ranking(lambda first, second, count: count / np.minimum(n[first], n[second]), top)
    lift = _Ranking(lambda first, second, count: count * num_images / (n[first] * n[second]), top)
    companions, companion_counts = np.full(num_classes, -1), np.zeros(num_classes, dtype=np.int64)
    num_pairs = 0
    step = max(1, _BLOCK_ELEMENTS // num_classes)
    for start in range(0, num_classes, step):
        product = by_class[start : start + step] @ positives
        product.sort_indices()
        row = np.repeat(np.arange(start, start + product.shape[0]), np.diff(product.indptr))
        column, count = product.indices.astype(np.intp), product.data.astype(np.int64)
        others = np.where(row == column, 0, count)
        np.maximum.at(companion_counts, row, others)
        best = np.flatnonzero((others == companion_counts[row]) & (others > 0))[::-1]
        # Of several assignments to one place the last one stays: reversed, that is the lowest column.
        companions[row[best]] = column[best]
        above = column > row
        pairs = row[above], column[above], count[above]
        num_pairs += len(pairs[0])
        common = pairs[2] >= min_count
        for ranking, kept in ((frequency, slice(None)), (share, common), (lift, common)):
            ranking.add(*(values[kept] for values in pairs))
    return Cooccurrence(
        by_count=frequency.result(n, num_images),
        by_share=share.result(n, num_images),
        by_lift=lift.result(n, num_images),
        top=top,
        min_count=min_count,
        num_pairs=num_pairs,
        companions=companions,
        companion_counts=companion_counts,
    )


class _Ranking:
    """The best pairs by one value, of all that are added."""

    def __init__(self, value: Callable[[_Counts, _Counts, _Counts], NDArray[np.float64]], top: int) -> None:
        self._value, self._top = value, top
        self._best: tuple[_Counts, _Counts, _Counts] = (np.empty(0, np.int64),) * 3

    def add(self, first: _Counts, second: _Counts, count: _Counts) -> None:
        # One array at a time: a block has millions of pairs.
        value = self._value(first, second, count)
        if len(value) > self._top:
            kept = np.flatnonzero(value >= np.partition(value, -self._top)[-self._top])
            first, second, count = first[kept], second[kept], count[kept]
        first, second, count = (np.concatenate(both) for both in zip(self._best, (first, second, count), strict=True))
        order = np.lexsort((second, first, -count, -self._value(first, second, count)))[: self._top]
        self._best = first[order], second[order], count[order]

    def result(self, n: _Counts, num_images: int) -> ClassPairs:
        low, high, counts = self._best
        swapped = n[low] > n[high]
        first, second = np.where(swapped, high, low), np.where(swapped, low, high)
        return ClassPairs(
            first=first,
            second=second,
            counts=counts,
            share=counts / n[first],
            reverse_share=counts / n[second],
            lift=counts * num_images / (n[first] * n[second]),
        )
