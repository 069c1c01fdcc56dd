"""Exact, tie-aware average precision of every class.

Scores on a CPU are read in blocks, so that memory does not grow with the matrix; scores on a GPU stay there. Both ways
place every known score among the sorted scores of its class's positives, and sort and keep those only.
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
from torch import Tensor

from tailwise.matrix import Csr
from tailwise.metrics.score_matrix import (
    LabelBlocks,
    Labels,
    Matrix,
    Scores,
    as_tensor,
    scores_and_targets,
    sparse_parts,
    unusable_score,
    without_frame,
)
from tailwise.shapes import Float, Int, Num

_Count: TypeAlias = Callable[
    [NDArray[Any], NDArray[np.bool_], NDArray[Any], NDArray[np.int64], NDArray[np.int64]],
    None,
]

# Limits of all threads together.
_BLOCK_SCORES = 1 << 19
_TABLE_BYTES = 1 << 25
# Below this many scores, starting threads and loading compiled code would take longer than they save.
_MANY_SCORES = 1 << 20
_COLUMNS_AT_ONCE = 2048
_POSITIVES_AT_ONCE = 1 << 14
_CACHE_LINE = 64
# On a GPU.
_SCORES_AT_ONCE = 1 << 22


def average_precision(scores: Scores, targets: Labels) -> Float[Tensor, " K"]:
    r"""Average precision of each class, on raw scores.

    The area under the precision-recall steps without interpolation, as
    :func:`sklearn.metrics.average_precision_score` defines it. It is the mean, over the positives :math:`i` of a
    class, of the precision among everything that scores at least as high:

    .. math:: AP = \frac{1}{P} \sum_{i: y_i = 1}
              \frac{|\{j: y_j = 1, s_j \ge s_i\}|}{|\{j: y_j \in \{0, 1\}, s_j \ge s_i\}|}

    Samples with tied scores are therefore ranked together, and their order in the input does not matter. Do not round
    or squash the scores first: a sigmoid in half precision makes ties that the logits do not have.

    Arrays may be mapped from files larger than the memory: besides the result, less than 64 MiB are allocated, or where
    that is more, 80 bytes for each positive of the largest class per thread. Many scores are divided among
    :func:`torch.get_num_threads` threads, in loops that Numba compiles where it is installed; the bits of the result
    depend on neither, nor on the order of rows. Scores on a GPU stay there.

    Args:
        scores: (N, K) real numbers of any dtype, higher means more likely; infinities are ranked like other values.
            They are compared in their own precision.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point), as a tensor, an array, a data frame or
            lists. An unknown label is left out of the ranking of its class. Also compressed sparse rows, for very many
            classes: a ``torch.sparse_csr`` tensor or a matrix of :mod:`scipy.sparse`; entries not stored are 0.

    Returns:
        (K,) float64 values in (0, 1]; NaN for a class without a positive, and for one without a known negative, which
        any scores would rank without a mistake.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a target is none of 1, 0 and unknown.

    Example:
        >>> scores = [[2.0, 0.1], [0.5, 0.3], [1.0, 0.2]]
        >>> average_precision(scores, [[1, 0], [1, 0], [0, 0]])
        tensor([0.8333,    nan], dtype=torch.float64)
    """
    shape, labels_shape = tuple(np.shape(scores)), tuple(np.shape(targets))
    if len(shape) != 2 or shape != labels_shape:
        raise ValueError(f"scores and targets must both be (N, K), got {shape} and {labels_shape}")
    # Apple's GPUs do not have float64: their tensors are copied to the CPU.
    if isinstance(scores, Tensor) and scores.device.type not in ("cpu", "mps"):
        return _on_device(scores.detach(), targets)
    return torch.from_numpy(_on_cpu(Matrix(scores), LabelBlocks(targets)))


def _on_cpu(scores: Matrix, labels: LabelBlocks) -> NDArray[np.float64]:
    """As :func:`average_precision`, for scores in memory or in a mapped file."""
    num_samples, num_classes = scores.shape
    dtype = _compared_as(scores.dtype)
    if num_samples * num_classes == 0:
        return np.full(num_classes, np.nan)
    is_large = num_samples * num_classes >= _MANY_SCORES
    threads = min(torch.get_num_threads(), num_classes) if is_large else 1
    ranking = _Ranking(
        scores,
        labels,
        dtype,
        _fastest_count() if is_large else _count_by_sorting,
        block_scores=max(1, _BLOCK_SCORES // threads),
        table_bytes=_TABLE_BYTES // threads,
    )
    # Four parts per thread, so that none waits long for the last; but fewer rather than splitting a cache line.
    line = max(1, _CACHE_LINE // scores.dtype.itemsize)
    width = min(max(-(-num_classes // (4 * threads)), min(-(-num_classes // threads), line)), _COLUMNS_AT_ONCE)
    parts = [slice(start, min(start + width, num_classes)) for start in range(0, num_classes, width)]
    if threads == 1:
        return np.concatenate([ranking.average_precision(part) for part in parts])
    with ThreadPoolExecutor(threads, thread_name_prefix="average-precision") as pool:
        return np.concatenate(list(pool.map(ranking.average_precision, parts)))


def _compared_as(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype, one of four, in which scores are compared; it represents all their values.

    Raises:
        ValueError: they are not real numbers.
    """
    if dtype.kind in "iu" and dtype.itemsize == 8:
        return dtype.newbyteorder("=")
    for wider in (np.float32, np.float64):
        if dtype.kind in "biuf" and np.can_cast(dtype, wider):
            return np.dtype(wider)
    raise ValueError(f"scores must be real numbers, got {dtype}")


def _fastest_count() -> _Count:
    """Counting with Numba where it is installed, otherwise with NumPy."""
    try:
        from tailwise.metrics.ranking_loops import count_by_placing
    except ModuleNotFoundError as error:
        if error.name != "numba":
            raise
        return _count_by_sorting
    return count_by_placing


def _count_by_sorting(
    scores: NDArray[Any],
    known: NDArray[np.bool_],
    table: NDArray[Any],
    starts: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """The counts of :func:`tailwise.metrics.ranking_loops.count_by_placing`, without Numba."""
    for row, is_known, start, stop in zip(scores, known, starts[:-1], starts[1:], strict=True):
        if start < stop:
            ordered = np.sort(row[is_known])
            at_least = len(ordered) - np.searchsorted(ordered, table[start:stop])
            counts[start:stop] += at_least
            counts[start : stop - 1] -= at_least[1:]


@dataclass(frozen=True)
class _Ranking:
    """Scores and labels, and the sizes of the blocks in which they are read.

    Attributes:
        scores: (N, K).
        labels: (N, K).
        dtype: in which scores are compared.
        count: adds a block of scores to the counts of the positives.
        block_scores: scores in a block, at most.
        table_bytes: size of the scores and counts of positives, at most, if a class needs no more.
    """

    scores: Matrix
    labels: LabelBlocks
    dtype: np.dtype[Any]
    count: _Count
    block_scores: int
    table_bytes: int

    def average_precision(self, columns: slice) -> NDArray[np.float64]:
        """Average precision of adjacent classes, of as many at once as have room in the table."""
        num_positive, num_unknown = np.zeros((2, columns.stop - columns.start), dtype=np.int64)
        for rows, part, here in self._blocks(columns):
            entries = self.labels.entries(rows, part)
            for count, chosen in ((num_positive, entries.positive), (num_unknown, ~entries.positive)):
                count[here] += np.bincount(entries.columns[chosen], minlength=part.stop - part.start)
        most = self.table_bytes // (self.dtype.itemsize + np.dtype(np.int64).itemsize)
        results = []
        for batch in _batches(num_positive, most):
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
        return _mean_precision(table, counts, starts)

    def _sorted_positives(self, columns: slice, starts: NDArray[np.int64]) -> NDArray[Any]:
        """The scores of the positives, ascending in each class, one class after another by ``starts``."""
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
        """Rows and columns of the blocks of adjacent classes, and those columns counted from the first class.

        Blocks come in the order of the scores in memory.
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


def _mean_precision(table: NDArray[Any], counts: NDArray[np.int64], starts: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean, over the positives of each class, of the precision among everything that scores at least as high.

    Args:
        table: (P,) scores of positives, rising in each class.
        counts: (P,) known scores that are at least that of the positive, and below the next one's.
        starts: (C + 1,) where each class begins and the last one ends.

    Returns:
        (C,) NaN for a class without a positive.
    """
    result = np.full(len(starts) - 1, np.nan)
    for batch in _batches(np.diff(starts), _POSITIVES_AT_ONCE):
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


def _batches(sizes: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Slices of adjacent sizes that add up to ``most`` or less, and single larger ones."""
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


def _on_device(scores: Tensor, targets: Labels) -> Float[Tensor, " K"]:
    """What :func:`average_precision` returns, in tensor operations on the device of the scores.

    Besides the scores it needs some 50 bytes for each of four million of them, or of one class where that is more.
    """
    num_samples, num_classes = scores.shape
    result = torch.full((num_classes,), torch.nan, dtype=torch.float64, device=scores.device)
    parts = sparse_parts(targets)
    labels = _dense_columns(targets) if parts is None else _sparse_columns(parts, scores.device)
    step = max(1, _SCORES_AT_ONCE // max(1, num_samples))
    for start in range(0, num_classes, step):
        part = slice(start, min(start + step, num_classes))
        s, t = scores_and_targets(scores[:, part], labels(part), first_class=start)
        result[part] = _by_placing(s.T.contiguous(), t.T.contiguous())
    return result


def _by_placing(scores: Num[Tensor, "C N"], labels: Int[Tensor, "C N"]) -> Float[Tensor, " C"]:
    """Average precision of classes, one per row: scores are placed among the sorted ones of the positives."""
    num_positive = (labels == 1).sum(dim=1, keepdim=True)
    most = int(num_positive.max())
    position = torch.arange(most, device=scores.device)
    is_padding = position >= num_positive
    # Rows are padded with the highest score there is, which sorts last.
    highest = torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).max
    table = scores.new_full((len(scores), most), highest)
    table[~is_padding] = scores[labels == 1]
    table = table.sort(dim=1).values
    place = torch.searchsorted(table, scores, right=True).minimum(num_positive).masked_fill_(labels < 0, 0)
    counts = torch.zeros(len(scores), most + 1, dtype=torch.int64, device=scores.device)
    counts.scatter_add_(1, place, place.new_ones(()).expand_as(place))
    ranked = counts.flip(1).cumsum(1).flip(1)[:, 1:]
    hits = num_positive - torch.searchsorted(table, table)
    precision = (hits.double() / ranked).masked_fill(is_padding, 0)
    # Without a positive this is 0 / 0; without a negative nothing could be ranked wrongly.
    result = precision.sum(dim=1) / num_positive.squeeze(1)
    return result.masked_fill((labels == 0).sum(dim=1) == 0, torch.nan)


def _dense_columns(targets: Any) -> Callable[[slice], Any]:
    """A function that returns adjacent columns of dense labels."""
    dense = targets if isinstance(targets, Tensor) else np.asarray(without_frame(targets))
    return lambda part: dense[:, part]


def _sparse_columns(parts: Csr, device: torch.device) -> Callable[[slice], Num[Tensor, "N C"]]:
    """A function that returns adjacent columns of compressed sparse rows as a dense matrix on the device."""
    starts, columns, values = (as_tensor(part).to(device) for part in (parts.starts, parts.columns, parts.values))
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=device), starts.diff())

    def dense(part: slice) -> Num[Tensor, "N C"]:
        here = (columns >= part.start) & (columns < part.stop)
        block = values.new_zeros(len(starts) - 1, part.stop - part.start)
        # Repeated entries add up, as they do in PyTorch and SciPy.
        return block.index_put_((rows[here], columns[here] - part.start), values[here], accumulate=True)

    return dense
