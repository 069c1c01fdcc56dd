"""Average precision on a CPU: every known score is placed among the sorted scores of its class's positives.

Only positives are sorted and kept. All else is read in blocks, used and forgotten, so that memory does not grow with
the matrix: neither with a mapped file nor with labels or scores that have to be converted to be compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.metrics.blocks import DenseLabels, Matrix, SparseLabels
from tailwise.metrics.inputs import unusable_score

Count: TypeAlias = Callable[
    [NDArray[Any], NDArray[np.bool_], NDArray[Any], NDArray[np.int64], NDArray[np.int64]],
    None,
]

# Of all threads together.
_BLOCK_SCORES = 1 << 19
_TABLE_BYTES = 1 << 25
# Below this many scores, starting threads and loading what is compiled take longer than doing without.
_MANY_SCORES = 1 << 20
_COLUMNS_AT_ONCE = 2048
_POSITIVES_AT_ONCE = 1 << 14
_CACHE_LINE = 64


def average_precision_of(scores: Matrix, labels: DenseLabels | SparseLabels) -> NDArray[np.float64]:
    """Average precision of each class, NaN for a class without a positive or without a known negative.

    Args:
        scores: (N, K) real numbers.
        labels: (N, K).

    Returns:
        (K,) float64. The bits do not depend on the order of rows, on the number of threads, nor on what is compiled.

    Raises:
        ValueError: a score is NaN, or a label is none of 1, 0 and unknown.
    """
    num_samples, num_classes = scores.shape
    dtype = compared_as(scores.dtype)
    if num_samples * num_classes == 0:
        return np.full(num_classes, np.nan)
    is_large = num_samples * num_classes >= _MANY_SCORES
    threads = min(torch.get_num_threads(), num_classes) if is_large else 1
    ranking = _Ranking(
        scores,
        labels,
        dtype,
        fastest_count() if is_large else count_by_sorting,
        block_scores=max(1, _BLOCK_SCORES // threads),
        table_bytes=_TABLE_BYTES // threads,
    )
    # Four parts per thread, so that none waits long for the last; but fewer rather than parts of a cache line.
    line = max(1, _CACHE_LINE // scores.dtype.itemsize)
    width = min(max(-(-num_classes // (4 * threads)), min(-(-num_classes // threads), line)), _COLUMNS_AT_ONCE)
    parts = [slice(start, min(start + width, num_classes)) for start in range(0, num_classes, width)]
    if threads == 1:
        return np.concatenate([ranking.average_precision(part) for part in parts])
    with ThreadPoolExecutor(threads, thread_name_prefix="average-precision") as pool:
        return np.concatenate(list(pool.map(ranking.average_precision, parts)))


def compared_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of few in which scores are compared; it holds all values of theirs.

    Raises:
        ValueError: they are not real numbers.
    """
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return dtype.newbyteorder("=")
    for wider in (np.float32, np.float64):
        if dtype.kind in "biuf" and np.can_cast(dtype, wider):
            return np.dtype(wider)
    raise ValueError(f"scores must be real numbers, got {dtype}")


def fastest_count() -> Count:
    """The compiled way to count where Numba is installed, else the other one."""
    try:
        from tailwise.kernels.ranking import count_by_placing
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return count_by_sorting
    return count_by_placing


def count_by_sorting(
    scores: NDArray[Any],
    known: NDArray[np.bool_],
    table: NDArray[Any],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """What :func:`tailwise.kernels.ranking.count_by_placing` does, without Numba."""
    for row, is_known, start, stop in zip(scores, known, starts[:-1], starts[1:], strict=True):
        if start < stop:
            ordered = np.sort(row[is_known])
            at_least = len(ordered) - np.searchsorted(ordered, table[start:stop])
            counts[start:stop] += at_least
            counts[start : stop - 1] -= at_least[1:]


@dataclass(frozen=True)
class _Ranking:
    """Scores and labels, and how much of them is looked at at once.

    Attributes:
        scores: (N, K).
        labels: (N, K).
        dtype: in which scores are compared.
        count: adds a block of scores to the counts of the positives.
        block_scores: scores in a block, at most.
        table_bytes: size of the scores and counts of positives, at most, if a class needs no more.
    """

    scores: Matrix
    labels: DenseLabels | SparseLabels
    dtype: np.dtype[Any]
    count: Count
    block_scores: int
    table_bytes: int

    def average_precision(self, columns: slice) -> NDArray[np.float64]:
        """Average precision of neighbouring classes, of as many at once as have room in the table."""
        num_positive, num_unknown = np.zeros((2, columns.stop - columns.start), dtype=np.int64)
        for rows, part, here in self._blocks(columns):
            entries = self.labels.entries(rows, part)
            for count, chosen in ((num_positive, entries.positive), (num_unknown, ~entries.positive)):
                count[here] += np.bincount(entries.columns[chosen], minlength=part.stop - part.start)
        most = self.table_bytes // (self.dtype.itemsize + np.dtype(np.int64).itemsize)
        results = []
        for batch in batches(num_positive, most):
            together = slice(columns.start + batch.start, columns.start + batch.stop)
            results.append(self._at_once(together, num_positive[batch], bool(num_unknown.any())))
        num_negative = self.scores.shape[0] - num_positive - num_unknown
        return np.where(num_negative > 0, np.concatenate(results), np.nan)

    def _at_once(self, columns: slice, num_positive: NDArray[np.int64], has_unknown: bool) -> NDArray[np.float64]:
        starts = np.concatenate([[0], np.cumsum(num_positive)])
        table = self._sorted_positives(columns, starts)
        counts = np.zeros(len(table), dtype=np.int64)
        for rows, part, here in self._blocks(columns):
            block = np.array(self.scores[rows, part].T, dtype=self.dtype, order="C")
            _refuse_nan(block, rows, part)
            known = np.ones(block.shape, dtype=np.bool_)
            if has_unknown:
                entries = self.labels.entries(rows, part)
                known[entries.columns[~entries.positive], entries.rows[~entries.positive]] = False
            self.count(block, known, table, starts[here.start : here.stop + 1], counts)
        return mean_precision(table, counts, starts)

    def _sorted_positives(self, columns: slice, starts: NDArray[np.int64]) -> NDArray[Any]:
        """The scores of the positives, rising in each class, class after class as ``starts`` says."""
        table = np.empty(starts[-1], dtype=self.dtype)
        ends = starts[:-1].copy()
        for rows, part, here in self._blocks(columns):
            entries = self.labels.entries(rows, part)
            row, column = entries.rows[entries.positive], entries.columns[entries.positive]
            # Radix sort, as these numbers are small.
            order = np.argsort(column.astype(np.uint16), kind="stable")
            row, column = row[order], column[order]
            found = np.bincount(column, minlength=part.stop - part.start)
            places = np.arange(len(row)) + np.repeat(ends[here] - (np.cumsum(found) - found), found)
            table[places] = self.scores[rows, part][row, column]
            ends[here] += found
        for start, stop in itertools.pairwise(starts):
            table[start:stop].sort()
        return table

    def _blocks(self, columns: slice) -> Iterator[tuple[slice, slice, slice]]:
        """Rows and columns of the blocks of neighbouring classes, and those columns counted from the first class.

        Blocks come in the order in which the scores lie.
        """
        num_samples, width = self.scores.shape[0], columns.stop - columns.start
        if self.scores.by_column:
            height = min(num_samples, self.block_scores)
            width = max(1, self.block_scores // height)
        else:
            height = max(1, self.block_scores // width)
        for left in range(columns.start, columns.stop, width):
            for top in range(0, num_samples, height):
                part = slice(left, min(left + width, columns.stop))
                here = slice(part.start - columns.start, part.stop - columns.start)
                yield slice(top, min(top + height, num_samples)), part, here


def mean_precision(table: NDArray[Any], counts: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean, over the positives of each class, of the precision among everything that scores at least as high.

    Args:
        table: (P,) scores of positives, rising in each class.
        counts: (P,) known scores that are at least that of the positive, and below the next one's.
        starts: (C + 1,) where each class begins and the last one ends.

    Returns:
        (C,) NaN for a class without a positive.
    """
    result = np.full(len(starts) - 1, np.nan)
    for batch in batches(np.diff(starts), _POSITIVES_AT_ONCE):
        first, last = starts[batch.start], starts[batch.stop]
        if first == last:
            continue
        num_positive = np.diff(starts[batch.start : batch.stop + 1])
        begins, ends = starts[batch] - first, starts[batch.start + 1 : batch.stop + 1] - first
        end = np.repeat(ends, num_positive)
        at_least = np.append(counts[first:last][::-1].cumsum()[::-1], 0)
        ranked = at_least[:-1] - at_least[end]
        values = table[first:last]
        opens = np.append(True, values[1:] != values[:-1])
        filled = num_positive > 0
        opens[begins[filled]] = True
        first_tied = np.maximum.accumulate(np.where(opens, np.arange(len(values)), 0))
        sums = np.add.reduceat((end - first_tied) / ranked, begins[filled])
        result[batch][filled] = sums / num_positive[filled]
    return result


def batches(sizes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Neighbours whose sizes add up to ``most`` or less, and single ones that are larger."""
    ends = np.cumsum(sizes)
    start = 0
    while start < len(sizes):
        before = ends[start] - sizes[start]
        stop = max(start + 1, int(np.searchsorted(ends, before + most, side="right")))
        yield slice(start, stop)
        start = stop


def _refuse_nan(block: NDArray[Any], rows: slice, columns: slice) -> None:
    if block.dtype.kind == "f":
        missing = np.isnan(block)
        if missing.any():
            column, row = (int(places[0]) for places in np.nonzero(missing))
            raise unusable_score(rows.start + row, columns.start + column)
