"""Labels of a batch, dense or sparse, a block at a time."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from tailwise.losses.term import known_pairs
from tailwise.shapes import Bool, Float, Shaped


def is_sparse(targets: Tensor) -> bool:
    """Whether targets are a sparse CSR tensor: what it does not store is 0."""
    return targets.layout == torch.sparse_csr


def dense_rows(targets: Shaped[Tensor, "B C"], rows: slice) -> Shaped[Tensor, "b C"]:
    """Some samples' labels as a dense tensor; a view where they are dense already."""
    if not is_sparse(targets):
        return targets[rows]
    bounds, columns, values = targets.crow_indices(), targets.col_indices(), targets.values()
    start, stop, _ = rows.indices(targets.shape[0])
    first, last = int(bounds[start]), int(bounds[stop])
    block = torch.zeros(stop - start, targets.shape[1], dtype=values.dtype, device=values.device)
    owner = torch.repeat_interleave(bounds[start : stop + 1].diff(), output_size=last - first)
    block[owner, columns[first:last]] = values[first:last]
    return block


def sparse_row_sums(targets: Shaped[Tensor, "B C"], values: Float[Tensor, "M C"]) -> Float[Tensor, "B M"]:
    """Σ_k y_ik u_mk over the known labels of each sample, from the entries of CSR targets alone."""
    entries = targets.values().to(values.dtype)
    entries = torch.where(entries > 0, entries, 0)  # what is unknown, −1 or NaN, adds nothing
    owner = _owners(targets)
    sums = values.new_zeros(len(values), targets.shape[0])
    return sums.index_add_(1, owner, values[:, targets.col_indices()] * entries).T


def _owners(targets: Tensor) -> Tensor:
    """The sample of every entry of CSR targets."""
    return torch.repeat_interleave(targets.crow_indices().diff(), output_size=targets.values().numel())


class LabelChunks:
    """Labels of all samples, some neighbouring classes at a time, as dense tensors.

    The entries of CSR targets are sorted by class once: then every chunk costs what is in it.

    Args:
        targets: (B, C) labels, dense or sparse CSR.
        mask: (B, C), False where the label is unknown.
        classes: the classes that are gone through.
        size: classes of a chunk.
    """

    def __init__(
        self, targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None, classes: range, size: int
    ) -> None:
        self._targets, self._mask = targets, mask
        starts = range(classes.start, classes.stop, size)
        self.slices = [slice(start, min(start + size, classes.stop)) for start in starts]
        self._is_sparse = is_sparse(targets)
        if self._is_sparse:
            self._columns, order = torch.sort(targets.col_indices(), stable=True)
            self._owner = _owners(targets)[order]
            self._values = targets.values()[order]
            edges = torch.tensor([*starts, classes.stop], device=self._columns.device)
            bounds = torch.searchsorted(self._columns, edges).tolist()
            self._entries = {start: slice(*pair) for start, pair in zip(starts, pairwise(bounds), strict=True)}

    def labels(self, classes: slice) -> tuple[Tensor, Tensor | None]:
        """Labels and mask of a chunk."""
        mask = None if self._mask is None else self._mask[:, classes]
        if not self._is_sparse:
            return self._targets[:, classes], mask
        entries = self._entries[classes.start]
        block = self._values.new_zeros(self._targets.shape[0], classes.stop - classes.start)
        block[self._owner[entries], self._columns[entries] - classes.start] = self._values[entries]
        return block, mask

    def positives(self, classes: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Samples, classes and values of the known positives of a chunk, in any order."""
        if self._is_sparse:
            entries = self._entries[classes.start]
            rows, columns, values = self._owner[entries], self._columns[entries], self._values[entries].float()
        else:
            rows, columns = (self._targets[:, classes] > 0).nonzero(as_tuple=True)
            columns = columns + classes.start
            values = self._targets[rows, columns].float()
        is_positive = values > 0
        if self._mask is not None:
            is_positive &= self._mask[rows, columns]
        return rows[is_positive], columns[is_positive], values[is_positive]

    def count_known(self) -> Tensor | int:
        """Number of known pairs."""
        pairs = self._targets.shape[0] * sum(classes.stop - classes.start for classes in self.slices)
        if self._mask is None and self._targets.dtype in (torch.bool, torch.uint8):
            return pairs
        if self._mask is None and self._is_sparse:
            inside = slice(self._entries[self.slices[0].start].start, self._entries[self.slices[-1].start].stop)
            return pairs - (~(self._values[inside] >= 0)).sum()
        counts = []
        for classes in self.slices:
            known = known_pairs(*self.labels(classes))
            assert known is not None
            counts.append(known.sum())
        return torch.stack(counts).sum()


def to_kind(targets: Tensor) -> Tensor:
    """Labels in one of the two types that kernels read: int8, or float32 for those that may be soft.

    Boolean and uint8 labels are read as int8 where they lie; only wider integers are copied.
    """
    if is_sparse(targets):
        values = to_kind(targets.values())
        return torch.sparse_csr_tensor(
            targets.crow_indices(), targets.col_indices(), values, targets.shape, check_invariants=False
        )
    if targets.dtype in (torch.bool, torch.uint8):
        return targets.view(torch.int8)
    return targets.to(torch.float32 if targets.is_floating_point() else torch.int8)
