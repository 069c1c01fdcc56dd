"""Where a label matrix is positive, class by class, whatever it is stored as."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tailwise.errors import InputError
from tailwise.shapes import Int


@dataclass(frozen=True, eq=False)
class Positives:
    """The positive labels of N rows and K classes.

    Attributes:
        rows: (P,) rows positive for the first class in rising order, then those positive for the second, and so on.
        counts: (K,) number of rows positive for each class.
        num_rows: N.
    """

    rows: Int[np.ndarray, "P"]
    counts: Int[np.ndarray, "K"]
    num_rows: int

    @cached_property
    def per_row(self) -> Int[np.ndarray, "N"]:
        """(N,) number of positive classes of each row."""
        return np.bincount(self.rows, minlength=self.num_rows)

    def spread(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """The (K,) value of each class, repeated for each of its rows: (P,), in the order of ``rows``."""
        return np.repeat(values, self.counts)


def find_positives(targets: Any) -> Positives:
    """Find the positive labels of a matrix in the order of classes.

    A sparse matrix is never made dense: memory and time are those of its stored labels.

    Args:
        targets: (N, K) array or tensor, or a CSR matrix of ``torch`` or ``scipy.sparse``. Entries are 1, 0, or -1 for
            unknown, which is no positive. A label that a CSR matrix stores twice counts once.

    Raises:
        InputError: ``targets`` is no matrix, or holds no positive label.
    """
    shape, rows, columns = _coordinates(targets)
    # The coordinates come row by row: a stable sort keeps the rows of a class rising, and the same label together.
    order = np.argsort(columns, kind="stable")
    rows, columns = rows[order], columns[order]
    is_first = np.ones(len(rows), dtype=bool)
    is_first[1:] = (rows[1:] != rows[:-1]) | (columns[1:] != columns[:-1])
    rows, columns = rows[is_first], columns[is_first]
    if not len(rows):
        raise InputError(f"none of the {shape[0]} rows has a positive label: there is nothing to draw")
    return Positives(rows, np.bincount(columns, minlength=shape[1]), shape[0])


def _coordinates(targets: Any) -> tuple[tuple[int, int], NDArray[np.intp], NDArray[np.integer]]:
    """Shape of a matrix, and the (P,) rows and (P,) columns of its ones, row by row."""
    if isinstance(targets, torch.Tensor) and targets.layout == torch.sparse_csr:
        starts, columns, values = (
            part.numpy(force=True) for part in (targets.crow_indices(), targets.col_indices(), targets.values())
        )
    elif hasattr(targets, "tocsr"):
        stored = targets.tocsr()
        starts, columns, values = stored.indptr, stored.indices, stored.data
    else:
        if isinstance(targets, torch.Tensor) and targets.layout != torch.strided:
            raise InputError(f"targets are {targets.layout}: give dense ones, or targets.to_sparse_csr()")
        labels = targets.numpy(force=True) if isinstance(targets, torch.Tensor) else np.asarray(targets)
        if labels.ndim != 2:
            raise InputError(f"targets must be (N, K), got shape {labels.shape}")
        rows, columns = np.nonzero(labels == 1)
        return (labels.shape[0], labels.shape[1]), rows, columns
    is_positive = values == 1
    rows = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    return (targets.shape[0], targets.shape[1]), rows[is_positive], columns[is_positive]
