"""Label matrices, dense or sparse, behind the few operations that the data side needs of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tailwise.labels import UNKNOWN
from tailwise.shapes import Int

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Targets: TypeAlias = NDArray[np.int8] | csr_array
else:
    # SciPy is not needed by those who have arrays.
    Targets: TypeAlias = Any

# An array of this many bytes is a burden to nobody.
_LARGEST_ARRAY = 2**28
_CHUNK_ELEMENTS = 2**24


def from_indices(
    positives: Sequence[int] | NDArray[np.integer],
    unknowns: Sequence[int] | NDArray[np.integer],
    positive_rows: Sequence[int] | NDArray[np.integer],
    unknown_rows: Sequence[int] | NDArray[np.integer],
    shape: tuple[int, int],
) -> Targets:
    """Make a label matrix from the places that are not 0.

    Args:
        positives: (P,) columns of the positive labels.
        unknowns: (U,) columns of the unknown labels.
        positive_rows: (P,) their rows.
        unknown_rows: (U,) their rows.
        shape: (N, K).

    Returns:
        (N, K) int8: an array up to 256 MB, beyond that a ``scipy.sparse.csr_array``.
    """
    if shape[0] * shape[1] <= _LARGEST_ARRAY:
        targets = np.zeros(shape, dtype=np.int8)
        targets[np.asarray(unknown_rows, dtype=np.intp), np.asarray(unknowns, dtype=np.intp)] = UNKNOWN
        targets[np.asarray(positive_rows, dtype=np.intp), np.asarray(positives, dtype=np.intp)] = 1
        return targets
    from scipy.sparse import csr_array

    rows = np.concatenate([positive_rows, unknown_rows]).astype(np.int32)
    columns = np.concatenate([positives, unknowns]).astype(np.int32)
    values = np.ones(len(rows), dtype=np.int8)
    values[len(positive_rows) :] = UNKNOWN
    # One entry per place: SciPy would add the values of repeated ones.
    places, first = np.unique(rows.astype(np.int64) * shape[1] + columns, return_index=True)
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(places // shape[1], minlength=shape[0]), out=indptr[1:])
    return csr_array((values[first], columns[first], indptr), shape=shape)


def to_dense(targets: Targets) -> Int[np.ndarray, "N K"]:
    """The label matrix as an (N, K) int8 array."""
    dense: NDArray[np.int8] = targets if isinstance(targets, np.ndarray) else targets.toarray()
    return dense


def dense_chunks(targets: Targets) -> Iterator[Int[np.ndarray, "n K"]]:
    """The label matrix in (n, K) arrays of consecutive rows, each of about 16 MB at most."""
    step = max(1, _CHUNK_ELEMENTS // max(1, targets.shape[1]))
    for start in range(0, targets.shape[0], step):
        yield to_dense(targets[start : start + step])


def rows_by_class(targets: Targets, value: int = 1) -> list[NDArray[np.intp]]:
    """For each of the K classes, the rows in which its label is ``value`` (1 or -1), ascending."""
    if isinstance(targets, np.ndarray):
        return [np.flatnonzero(column == value) for column in targets.T]
    by_column = targets.tocsc()
    by_column.sort_indices()
    parts = zip(by_column.indptr[:-1], by_column.indptr[1:], strict=True)
    return [by_column.indices[start:stop][by_column.data[start:stop] == value].astype(np.intp) for start, stop in parts]


def classes_by_row(targets: Targets, value: int = 1) -> Iterator[NDArray[np.intp]]:
    """For each of the N rows, the classes whose label is ``value`` (1 or -1), ascending."""
    if isinstance(targets, np.ndarray):
        yield from (np.flatnonzero(row == value) for row in targets)
        return
    targets.sort_indices()
    for start, stop in zip(targets.indptr[:-1], targets.indptr[1:], strict=True):
        yield targets.indices[start:stop][targets.data[start:stop] == value].astype(np.intp)


def has_unknown(targets: Targets) -> bool:
    """Whether any label is unknown."""
    values = targets if isinstance(targets, np.ndarray) else targets.data
    return bool((values == UNKNOWN).any())


def count_positives(parts: Iterable[Targets]) -> NDArray[np.int64]:
    """(K,) positives per class of the rows of all ``parts``."""
    counts: NDArray[np.int64] = np.sum([(part == 1).sum(axis=0).reshape(-1) for part in parts], axis=0, dtype=np.int64)
    return counts
