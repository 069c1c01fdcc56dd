"""Labels of a batch, dense or sparse, a block at a time."""

from __future__ import annotations

import torch
from torch import Tensor

from tailwise.shapes import Shaped


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
    owner = torch.repeat_interleave(bounds[start : stop + 1].diff())
    block[owner, columns[first:last]] = values[first:last]
    return block


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
