"""Label matrices, dense or sparse, behind the few operations that the data side needs of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tailwise.shapes import Int

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Targets: TypeAlias = NDArray[np.int8] | csr_array
else:
    # SciPy is not needed by those who have arrays.
    Targets: TypeAlias = Any

UNKNOWN = -1
"""The target value of a label nobody has judged. NaN means the same in floating-point targets."""

# An array of this many bytes is a burden to nobody.
_LARGEST_ARRAY = 2**28
_CHUNK_ELEMENTS = 2**24


def from_indices(positive: Int[np.ndarray, "2 P"], unknown: Int[np.ndarray, "2 U"], shape: tuple[int, int]) -> Targets:
    """Make a label matrix from the places that are not 0.

    Args:
        positive: (2, P) rows and classes of the positive labels.
        unknown: (2, U) rows and classes of the unknown labels; a label that is both is positive.
        shape: (N, K).

    Returns:
        (N, K) int8: an array up to 256 MB, beyond that a ``scipy.sparse.csr_array``.
    """
    if shape[0] * shape[1] <= _LARGEST_ARRAY:
        targets = np.zeros(shape, dtype=np.int8)
        targets[tuple(unknown)] = UNKNOWN
        targets[tuple(positive)] = 1
        return targets
    from scipy.sparse import csr_array

    rows, classes = np.concatenate([positive, unknown], axis=1)
    # One entry per place: SciPy would add the values of repeated ones.
    places, first = np.unique(rows.astype(np.int64) * shape[1] + classes, return_index=True)
    indptr = np.zeros(shape[0] + 1, dtype=np.int64)
    np.cumsum(np.bincount(places // shape[1], minlength=shape[0]), out=indptr[1:])
    values = np.where(first < positive.shape[1], 1, UNKNOWN).astype(np.int8)
    return csr_array((values, places % shape[1], indptr), shape=shape)


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


def count_positives(targets: Targets) -> NDArray[np.int64]:
    """(K,) positives per class."""
    counts: NDArray[np.int64] = np.asarray((targets == 1).sum(axis=0, dtype=np.int64)).reshape(-1)
    return counts


def count_negatives(targets: Targets) -> NDArray[np.int64]:
    """(K,) judged negatives per class."""
    unknown = np.asarray((targets == UNKNOWN).sum(axis=0, dtype=np.int64)).reshape(-1)
    counts: NDArray[np.int64] = targets.shape[0] - count_positives(targets) - unknown
    return counts


def can_be_scored(targets: Targets) -> NDArray[np.bool_]:
    """(K,) whether a class has both a positive and a judged negative, so that scores can rank it right or wrong."""
    both: NDArray[np.bool_] = (count_positives(targets) > 0) & (count_negatives(targets) > 0)
    return both


def is_sparse(targets: object) -> bool:
    """Whether the label matrix is one of ``scipy.sparse``."""
    return hasattr(targets, "tocsr")
