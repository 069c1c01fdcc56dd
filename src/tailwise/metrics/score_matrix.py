"""Scores and labels of metrics: checked tensors, and matrices that are read in blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tailwise.matrix import UNKNOWN, Csr, csr_parts, dense_or_parts, frame_columns
from tailwise.shapes import Int, Num

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    Scores: TypeAlias = Tensor | ArrayLike
    Labels: TypeAlias = Tensor | ArrayLike | csr_array
else:
    # SciPy is optional.
    Scores: TypeAlias = Any
    Labels: TypeAlias = Any


def scores_and_targets(
    scores: Scores, targets: Labels, first_class: int = 0
) -> tuple[Num[Tensor, "N K"], Int[Tensor, "N K"]]:
    """Bring scores and targets to one form, on the device of the scores.

    Args:
        scores: (N, K) real numbers, higher means more likely; half precision becomes float32, which changes no value.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point), dense or compressed sparse rows.
        first_class: the class of column 0, for messages.

    Returns:
        The scores in a dtype that can be compared on every device, and the targets as int8 with -1 for unknown.

    Raises:
        ValueError: the shapes disagree, a score is NaN or complex, or a target is none of 1, 0 and unknown.
    """
    s, t = as_tensor(scores), as_tensor(without_frame(targets))
    if s.ndim != 2 or s.shape != t.shape:
        raise ValueError(f"scores and targets must both be (N, K), got {tuple(s.shape)} and {tuple(t.shape)}")
    if s.is_complex():
        raise ValueError(f"scores must be real numbers, got {s.dtype}")
    if s.dtype in (torch.float16, torch.bfloat16):
        s = s.float()
    elif s.dtype == torch.bool:
        s = s.to(torch.uint8)
    if s.is_floating_point():
        missing = s.isnan()
        if missing.any():
            row, column = missing.nonzero()[0].tolist()
            raise unusable_score(row, first_class + column)
    return s, _hard_labels(t, first_class).to(s.device)


def probabilities_and_targets(probabilities: Scores, targets: Labels) -> tuple[Num[Tensor, "N K"], Int[Tensor, "N K"]]:
    """Bring probabilities and targets to one form, as :func:`scores_and_targets` does.

    Raises:
        ValueError: as there, or a probability is not in [0, 1].
    """
    p, t = scores_and_targets(probabilities, targets)
    if p.numel() and not 0 <= float(p.min()) <= float(p.max()) <= 1:
        raise ValueError(f"probabilities must be in [0, 1], got {float(p.min()):g} to {float(p.max()):g}")
    return p, t


def as_tensor(values: Labels) -> Tensor:
    """Values as a dense tensor without a graph, on their device; a read-only array is copied."""
    if isinstance(values, Tensor):
        tensor = values.detach()
        tensor = tensor.to_dense() if tensor.layout == torch.sparse_csr else tensor
        # Metrics count in float64, which Apple's GPUs do not have.
        return tensor.cpu() if tensor.device.type == "mps" else tensor
    other: Any = values
    array = np.ascontiguousarray(other.toarray() if hasattr(other, "toarray") else other)
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def sparse_parts(targets: Labels) -> Csr | None:
    """The parts of sparse labels, of SciPy's without repeated entries; None for dense labels."""
    matrix: Any = targets
    if hasattr(matrix, "tocsr"):
        matrix = matrix.tocsr()
        if not matrix.has_canonical_format:
            matrix = matrix.copy()
            matrix.sum_duplicates()
    return csr_parts(matrix)


def unusable_score(row: int, column: int) -> ValueError:
    """The error for a score that is NaN."""
    return ValueError(f"the score of class {column} in row {row} is NaN; scores must be numbers to be ranked")


class Matrix:
    """A matrix of which only the indexed part is read; one on another device is copied to the CPU.

    Args:
        values: (N, K) numbers of any dtype. An array may be read-only, or mapped from a file.
    """

    def __init__(self, values: Scores) -> None:
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
        """The dtype of the parts; bfloat16 becomes float32, as NumPy does not have it."""
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
    """The labels of a block that are not 0: positive or unknown. Rows and columns count from the block's first."""

    rows: NDArray[np.intp]
    """(E,) row of each."""
    columns: NDArray[np.intp]
    """(E,) column of each."""
    positive: NDArray[np.bool_]
    """(E,) whether it is 1; otherwise it is unknown."""


class LabelBlocks:
    """Labels as a matrix of 1, 0 and unknown (-1 or NaN), dense or compressed sparse rows, read in blocks.

    Args:
        targets: (N, K) array or tensor; or a ``torch.sparse_csr`` tensor or any matrix of ``scipy.sparse``, in which
            entries that are not stored are 0.
    """

    def __init__(self, targets: Labels) -> None:
        parts = sparse_parts(targets)
        self._source = Matrix(without_frame(targets)) if parts is None else parts.numpy()
        self.shape = self._source.shape

    def entries(self, rows: slice, columns: slice) -> Entries:
        """The labels of a block that are not 0.

        Raises:
            ValueError: a label is none of 1, 0 and unknown.
        """
        if isinstance(self._source, Matrix):
            block = self._source[rows, columns]
            places = np.flatnonzero(np.not_equal(block, 0, order="C"))
            row, column = np.divmod(places, block.shape[1])
            values = block[row, column]
        else:
            row, stored = self._source.rows(rows.start, rows.stop)
            column, values = self._source.columns[stored], self._source.values[stored]
            wanted = np.flatnonzero((column >= columns.start) & (column < columns.stop) & (values != 0))
            row, column, values = row[wanted], column[wanted].astype(np.intp) - columns.start, values[wanted]
        positive = values == 1
        if not positive.all():
            usable = positive | (values == UNKNOWN) | (values != values)
            if not usable.all():
                wrong = int(np.argmin(usable))
                place = rows.start + int(row[wrong]), columns.start + int(column[wrong])
                raise _unusable_target(*place, values[wrong].item())
        return Entries(row, column, positive)


def without_frame(targets: Any) -> Any:
    return targets if frame_columns(targets) is None else dense_or_parts(targets)


def _hard_labels(targets: Tensor, first_class: int) -> Int[Tensor, "N K"]:
    if targets.is_floating_point():
        targets = targets.nan_to_num(nan=UNKNOWN)
    wrong = (targets != 1) & (targets != 0)
    if targets.dtype.is_signed:
        wrong &= targets != UNKNOWN  # unsigned numbers would equal it modulo 256
    if wrong.any():
        row, column = wrong.nonzero()[0].tolist()
        raise _unusable_target(row, first_class + column, targets[row, column].item())
    return targets.to(torch.int8)


def _unusable_target(row: int, column: int, value: object) -> ValueError:
    return ValueError(
        f"the target of class {column} in row {row} is {value}; targets must be 1, 0 or unknown (-1 or NaN)"
    )
