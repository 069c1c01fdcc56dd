"""Label matrices, dense or in compressed sparse rows, of NumPy, SciPy or torch: one decoder, and common operations."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tailwise.errors import InputError
from tailwise.shapes import Int
from tailwise.spelling import near

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Targets: TypeAlias = NDArray[np.int8] | csr_array
else:
    # SciPy is optional for those who have arrays.
    Targets: TypeAlias = Any

UNKNOWN = -1
"""The target value of a label that was not judged. NaN means the same in floating-point targets."""

# Beyond this many bytes, matrices that are read from files become sparse.
_LARGEST_ARRAY = 2**28
_CHUNK_ELEMENTS = 2**24
_ROWS_AT_ONCE = 2**16


@dataclass(frozen=True, eq=False)
class Csr:
    """The parts of a matrix in compressed sparse rows, in the library that it came from.

    Attributes:
        starts: (N + 1,) where the entries of each row start.
        columns: (E,) column of each entry.
        values: (E,) value of each entry.
        num_columns: K.
    """

    starts: Any
    columns: Any
    values: Any
    num_columns: int

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.starts) - 1, self.num_columns

    def numpy(self) -> Csr:
        """The parts as NumPy arrays."""
        return Csr(_as_array(self.starts), _as_array(self.columns), _as_array(self.values), self.num_columns)

    def rows(self, start: int, stop: int) -> tuple[NDArray[np.intp], slice]:
        """The row of each entry in the rows ``start`` to ``stop``, counted from ``start``, and the slice of entries."""
        bounds = self.starts[start : stop + 1]
        return np.repeat(np.arange(len(bounds) - 1), np.diff(bounds)), slice(int(bounds[0]), int(bounds[-1]))


def csr_parts(matrix: Any) -> Csr | None:
    """The parts of a matrix of torch (``sparse_csr``) or of ``scipy.sparse`` (any layout); None for a dense one.

    Raises:
        InputError: it is a sparse tensor of another layout.
    """
    if is_tensor(matrix):
        if str(matrix.layout) == "torch.sparse_csr":
            return Csr(matrix.crow_indices(), matrix.col_indices(), matrix.values(), matrix.shape[1])
        if str(matrix.layout) != "torch.strided":
            raise InputError(f"targets are {matrix.layout}: give dense ones, or targets.to_sparse_csr()")
        return None
    if is_sparse(matrix):
        csr = matrix.tocsr()
        return Csr(csr.indptr, csr.indices, csr.data, csr.shape[1])
    return None


def is_tensor(values: object) -> bool:
    """Whether this is a tensor of torch, which need not be installed."""
    torch: Any = sys.modules.get("torch")
    return torch is not None and isinstance(values, torch.Tensor)


def dense_or_parts(labels: Any) -> NDArray[Any] | Csr | None:
    """A label matrix as an array or as the parts of compressed sparse rows.

    Args:
        labels: an array, a tensor, a CSR matrix, a data frame with a column for each class, or rows of numbers.

    Returns:
        An array of any dtype, int8 for data frames; or the parts as NumPy arrays; None for anything else.

    Raises:
        InputError: a column of a data frame is no label, or a tensor has another sparse layout.
    """
    parts = csr_parts(labels)
    if parts is not None:
        return parts.numpy()
    if frame_columns(labels) is not None:
        return _from_frame(labels)
    if is_tensor(labels) or isinstance(labels, np.ndarray):
        return _as_array(labels)
    first = labels[0] if isinstance(labels, Sequence) and not isinstance(labels, str | bytes) and len(labels) else None
    is_row = isinstance(first, Sequence) and len(first) > 0 and isinstance(first[0], int | float)
    return np.asarray(labels) if is_row else None


def frame_columns(labels: Any) -> tuple[str, ...] | None:
    """The names of the columns of a data frame of pandas, or of one like it; None for anything else."""
    if hasattr(labels, "columns") and hasattr(labels, "to_numpy"):
        return tuple(str(name) for name in labels.columns)
    return None


def are_label_lists(labels: Any) -> bool:
    """Whether this is a sequence of lists of class names, at least one of which holds a name."""
    if not isinstance(labels, Sequence) or isinstance(labels, str | bytes):
        return False
    are_lists = all(isinstance(row, list | tuple | set | frozenset) for row in labels)
    return are_lists and any(isinstance(name, str) for row in labels for name in row)


def decode_labels(labels: Any, class_names: Sequence[str] | None = None) -> tuple[Targets, tuple[str, ...]]:
    """Labels in any form as a label matrix with the names of its columns.

    Args:
        labels: (N, K) array, tensor, CSR matrix or data frame of 1, 0 and unknown (-1, NaN or missing); or N lists of
            class names.
        class_names: K names; those of the data frame or of the lists, sorted, when absent, else ``class 0``, ...

    Raises:
        InputError: these are no labels, or names do not fit them.

    Example:
        >>> decode_labels([["dog"], [], ["cat", "dog"]])
        (array([[0, 1],
               [0, 0],
               [1, 1]], dtype=int8), ('cat', 'dog'))
    """
    given = None if class_names is None else tuple(class_names)
    if are_label_lists(labels):
        names = given or tuple(sorted({name for row in labels for name in row}))
        return _from_lists(labels, distinct_names(names, len(names))), names
    found = dense_or_parts(labels)
    if found is None:
        raise InputError(
            "targets must be an (N, K) matrix of 1, 0 and unknown (-1 or NaN), a data frame of such columns, or N "
            f"lists of class names, got {type(labels).__name__}"
        )
    if isinstance(found, Csr):
        from scipy.sparse import csr_array as make_csr

        names = distinct_names(given, found.num_columns)
        return make_csr((hard_labels(found.values), found.columns, found.starts), shape=found.shape), names
    require_matrix(found)
    return hard_labels(found), distinct_names(given or frame_columns(labels), found.shape[1])


def hard_labels(values: NDArray[Any]) -> NDArray[np.int8]:
    """Labels as int8: 1, 0, and -1 for unknown.

    Raises:
        InputError: one is none of 1, 0, -1 and NaN.
    """
    positive = values == 1
    unknown = (values == UNKNOWN) | (values != values)
    allowed = positive | unknown | (values == 0)
    if not allowed.all():
        raise InputError(
            f"training targets must be 0, 1 or unknown (-1 or NaN) to be counted, found {values[~allowed].flat[0]}; "
            "turn soft labels into 0/1 first"
        )
    labels: NDArray[np.int8] = positive.astype(np.int8)
    labels[unknown] = UNKNOWN
    return labels


def distinct_names(class_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """K distinct class names; ``class 0``, ... when absent.

    Raises:
        InputError: their number differs, or one is repeated.
    """
    if class_names is None:
        return tuple(f"class {index}" for index in range(num_classes))
    names = tuple(class_names)
    if len(names) != num_classes:
        raise InputError(f"{len(names)} class names for {num_classes} class counts")
    if len(set(names)) != len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"class names must be distinct; {repeated!r} occurs more than once")
    return names


def read_matrix(targets: Any) -> NDArray[Any] | Csr:
    """An (N, K) label matrix in any form as an array or as parts; see :func:`dense_or_parts`.

    Raises:
        InputError: it has other than two dimensions.
    """
    found = dense_or_parts(targets)
    return require_matrix(np.asarray(targets) if found is None else found)


def require_matrix(labels: NDArray[Any] | Csr) -> NDArray[Any] | Csr:
    """Labels, after checking that they have two dimensions.

    Raises:
        InputError: they have a different number.
    """
    if len(labels.shape) != 2:
        raise InputError(f"targets must be (N, K), got shape {labels.shape}")
    return labels


def entries(matrix: NDArray[Any] | Csr) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[Any]]]:
    """Rows, columns and values of the labels that are not 0, row by row, a bounded number at a time.

    Args:
        matrix: (N, K) labels as :func:`read_matrix` returns them.
    """
    num_rows, num_columns = matrix.shape
    if not isinstance(matrix, Csr):
        step = max(1, _CHUNK_ELEMENTS // 4 // max(1, num_columns))
        for start in range(0, num_rows, step):
            row, column = np.nonzero(matrix[start : start + step])
            yield row + start, column, matrix[row + start, column]
        return
    step = _ROWS_AT_ONCE
    for start in range(0, num_rows, step):
        row, stored = matrix.rows(start, min(start + step, num_rows))
        value = matrix.values[stored]
        kept = np.flatnonzero(value)
        yield row[kept] + start, matrix.columns[stored][kept].astype(np.intp), value[kept]


def _as_array(values: Any) -> NDArray[Any]:
    array: NDArray[Any] = values.numpy(force=True) if is_tensor(values) else np.asarray(values)
    return array


def _from_frame(frame: Any) -> NDArray[np.int8]:
    """The labels in a data frame, column by column, as columns have types of their own."""
    labels = np.zeros((len(frame), len(frame.columns)), dtype=np.int8)
    for position, name in enumerate(frame.columns):
        column = frame.iloc[:, position] if hasattr(frame, "iloc") else frame[:, position]
        values = column.to_numpy()
        try:
            if values.dtype == object:  # with missing entries, or of several types
                values = np.array([_entry(value) for value in values], dtype=np.float64)
            elif values.dtype.kind not in "biuf":
                raise InputError(f"found {values.dtype}")
            labels[:, position] = hard_labels(values)
        except InputError as error:
            raise InputError(
                f"column {str(name)!r} of the targets is none of 1, 0 and unknown (-1 or missing): {error}; give the "
                "columns of the classes alone"
            ) from error
    return labels


def _entry(value: Any) -> float:
    """An entry of a column of any type."""
    if value is None or type(value).__name__ == "NAType":
        return float("nan")
    if isinstance(value, bool | int | float | np.bool_ | np.number):
        return float(value)
    raise InputError(f"found {value!r:.40}")


def _from_lists(lists: Sequence[Iterable[str]], class_names: Sequence[str]) -> Targets:
    position: Mapping[str, int] = {name: index for index, name in enumerate(class_names)}
    unknown = np.empty((2, 0), dtype=np.int64)
    places = []
    for row, names in enumerate(lists):
        for name in names:
            if name not in position:
                raise InputError(
                    f"row {row} has the label {name!r}, which is none of the {len(position)} classes"
                    f"{near(str(name), position)}"
                )
            places.append((row, position[name]))
    positive = np.array(places, dtype=np.int64).reshape(-1, 2).T
    return from_indices(positive, unknown, (len(lists), len(class_names)))


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
