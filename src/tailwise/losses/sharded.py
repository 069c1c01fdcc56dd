"""A head whose classes are spread over processes: each holds some rows of the weight, and all samples' features."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from tailwise.losses.batches import is_sparse
from tailwise.losses.linear import Head, checked_loss, default_chunk
from tailwise.losses.loss import Loss
from tailwise.losses.sgd import ChunkedSGD
from tailwise.shapes import Bool, Float, Shaped


def sharded_linear_loss(
    features: Float[Tensor, "B D"],
    weight: Float[Tensor, "c D"],
    bias: Float[Tensor, "c"] | None,
    targets: Shaped[Tensor, "B C"],
    loss: Loss,
    mask: Bool[Tensor, "B C"] | None = None,
    *,
    first: int,
    group: dist.ProcessGroup | None = None,
    chunk: int | None = None,
    sgd: ChunkedSGD | None = None,
) -> Tensor:
    """:func:`tailwise.losses.linear_loss` of the batches of all processes, each with some classes of the head.

    Every process calls it with its own samples and its own rows of the head. Features and labels are gathered; logits
    and gradients of the head never leave the process that has the classes.

    Args:
        features: (B, D) features of this process's samples; processes may have different numbers.
        weight: (c, D) rows ``first`` to ``first + c`` of the head's weight.
        bias: (c,) the same rows of the bias, or None.
        targets: (B, C) labels of this process's samples, of all classes, dense or sparse CSR.
        loss: a named loss of all C classes, the same in each process.
        mask: (B, C), False where the label is unknown; in all processes or in none.
        first: the first class of this process; together the processes have every class once.
        group: the processes; None for all.
        chunk: classes at a time.
        sgd: as for :func:`tailwise.losses.linear_loss`.

    Returns:
        The loss of all samples, the same in each process. Gradients of ``weight`` and ``bias`` are those of this
        value. Those of ``features`` are too, times the number of processes: a backbone in distributed data parallel
        averages over processes, and so receives the gradient of the value.

    Raises:
        ValueError: shapes disagree, or the rows are not classes of the loss.
        RuntimeError: no process group is up.
    """
    if not dist.is_initialized():
        raise RuntimeError("the classes are spread over processes: initialize a process group first")
    formula_loss = checked_loss(features, weight, bias, targets, loss, mask, chunk, is_whole=False)
    if not 0 <= first <= first + len(weight) <= loss.num_classes:
        raise ValueError(
            f"the loss has {loss.num_classes} classes: the head of a process cannot have rows {first} to "
            f"{first + len(weight)}"
        )
    everything: Tensor = _GatherRows.apply(features, group)
    labels = _gather_labels(targets, group)
    known = None if mask is None else _gather(mask, group)[0]
    size = chunk or default_chunk(len(everything))
    return Head(everything, weight, bias, labels, known, formula_loss, size, ClassSplit(first, group)).attached(sgd)


class ClassSplit:
    """Where the classes of this process begin, and how tables that each process fills in part become whole."""

    def __init__(self, first: int, group: dist.ProcessGroup | None) -> None:
        self.first, self._group = first, group

    def add(self, table: Tensor) -> None:
        """Add a tensor of all processes in place."""
        dist.all_reduce(table, group=self._group)


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; backward adds what each process's classes say about them."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        whole, lengths = _gather(rows, group)
        rank = dist.get_rank(group)
        ctx.group, ctx.processes = group, len(lengths)
        ctx.own = slice(sum(lengths[:rank]), sum(lengths[: rank + 1]))
        return whole

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient, group=ctx.group)
        return gradient[ctx.own] * ctx.processes, None


def _lengths(rows: Tensor, group: dist.ProcessGroup | None) -> list[int]:
    own = torch.tensor([len(rows)], device=rows.device)
    lengths = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(lengths, own, group=group)
    return [int(length) for length in lengths]


def _gather(rows: Tensor, group: dist.ProcessGroup | None) -> tuple[Tensor, list[int]]:
    """Rows of all processes, one after the other, and how many each has."""
    lengths = _lengths(rows, group)
    carried = rows.view(torch.uint8) if rows.dtype == torch.bool else rows
    padded = carried.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = carried
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded, group=group)
    whole = torch.cat([part[:length] for part, length in zip(parts, lengths, strict=True)])
    return (whole.view(torch.bool) if rows.dtype == torch.bool else whole), lengths


def _gather_labels(targets: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    if not is_sparse(targets):
        return _gather(targets, group)[0]
    per_row, _ = _gather(targets.crow_indices().diff(), group)
    bounds = torch.cat([per_row.new_zeros(1), per_row.cumsum(0)])
    columns, values = (_gather(part, group)[0] for part in (targets.col_indices(), targets.values()))
    shape = (len(per_row), targets.shape[1])
    return torch.sparse_csr_tensor(bounds, columns, values, shape, check_invariants=False)
