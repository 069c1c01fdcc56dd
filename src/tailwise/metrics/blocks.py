"""Matrices of scores and labels that are read in blocks, where they are: in memory, mapped from a file, or sparse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.matrix import UNKNOWN
from tailwise.metrics.inputs import unusable_target

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Targets: TypeAlias = Tensor | NDArray[Any] | csr_array
else:
    # SciPy is not needed by those who have arrays.
    Targets: TypeAlias = Any


class Matrix:
    """A matrix of which only what is asked for is read; one on another device is brought to the CPU.

    Args:
        values: (N, K) numbers of any dtype. An array may be read-only, or mapped from a file.
    """

    def __init__(self, values: Tensor | NDArray[Any]) -> None:
        self._is_bfloat16 = False
        if isinstance(values, Tensor):
            tensor = values.detach().cpu().resolve_neg()
            self._is_bfloat16 = tensor.dtype == torch.bfloat16
            values = (tensor.view(torch.int16) if self._is_bfloat16 else tensor).numpy()
        self._values = np.asarray(values)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._values.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """What is read has this dtype; NumPy does not know bfloat16, which becomes float32."""
        return np.dtype(np.float32) if self._is_bfloat16 else self._values.dtype

    @property
    def by_column(self) -> bool:
        """Whether the entries of a column are closer together than those of a row."""
        down, across = self._values.strides
        return abs(down) < abs(across)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        part: NDArray[Any] = self._values[index]
        # The upper half of a float32.
        return (part.astype(np.uint32) << 16).view(np.float32) if self._is_bfloat16 else part


class Entries(NamedTuple):
    """The labels of a block that are not 0, each either positive or unknown; rows and columns count from the block's.

    Attributes:
        rows: (E,) row of each.
        columns: (E,) column of each.
        positive: (E,) bool: whether it is 1; else it is unknown.
    """

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    positive: NDArray[np.bool_]


class DenseLabels:
    """Labels as a matrix of 1, 0 and unknown (-1 or NaN)."""

    def __init__(self, values: Tensor | NDArray[Any]) -> None:
        self._matrix = Matrix(values)
        self.shape = self._matrix.shape

    def entries(self, rows: slice, columns: slice) -> Entries:
        """What is not 0 in a block.

        Raises:
            ValueError: it is neither 1 nor unknown.
        """
        block = self._matrix[rows, columns]
        places = np.flatnonzero(np.not_equal(block, 0, order="C"))
        row, column = np.divmod(places, block.shape[1])
        return _entries(row, column, block[row, column], rows, columns)


class SparseLabels:
    """Labels as compressed sparse rows: what is not stored is 0.

    Args:
        targets: a ``torch.sparse_csr`` tensor, or anything of ``scipy.sparse``.
    """

    def __init__(self, targets: Any) -> None:
        self.shape = tuple(targets.shape)
        if isinstance(targets, Tensor):
            parts = targets.crow_indices(), targets.col_indices(), targets.values()
            self._starts, self._columns, self._values = (Matrix(part)[:] for part in parts)
        else:
            csr = targets.tocsr()
            if not csr.has_canonical_format:
                csr = csr.copy()
                csr.sum_duplicates()
            self._starts, self._columns, self._values = csr.indptr, csr.indices, csr.data

    def entries(self, rows: slice, columns: slice) -> Entries:
        """What is not 0 in a block.

        Raises:
            ValueError: it is neither 1 nor unknown.
        """
        first = self._starts[rows.start : rows.stop + 1]
        stored = slice(int(first[0]), int(first[-1]))
        column, values = self._columns[stored], self._values[stored]
        wanted = np.flatnonzero((column >= columns.start) & (column < columns.stop) & (values != 0))
        row = np.searchsorted(first - first[0], wanted, side="right") - 1
        return _entries(row, column[wanted].astype(np.intp) - columns.start, values[wanted], rows, columns)


def is_sparse(targets: object) -> bool:
    """Whether labels are compressed sparse rows of torch, or anything of ``scipy.sparse``."""
    if isinstance(targets, Tensor):
        return targets.layout == torch.sparse_csr
    return hasattr(targets, "tocsr")


def _entries(
    row: NDArray[np.intp], column: NDArray[np.intp], values: NDArray[Any], rows: slice, columns: slice
) -> Entries:
    positive = values == 1
    if not positive.all():
        usable = positive | (values == UNKNOWN) | (values != values)
        if not usable.all():
            first = int(np.argmin(usable))
            place = rows.start + int(row[first]), columns.start + int(column[first])
            raise unusable_target(*place, values[first].item())
    return Entries(row, column, positive)
