"""Losses of linear heads without their logits: of a whole head, or of one whose classes are spread over processes."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from tailwise.losses.batches import check_labels, is_sparse, require_tensor, require_type
from tailwise.losses.chunked import LOGITS_AT_ONCE, ChunkedHead, ChunkedSGD, ClassSplit
from tailwise.losses.loss import FormulaLoss, Loss
from tailwise.shapes import Bool, Float, Shaped


def linear_loss(
    features: Float[Tensor, "B D"],
    weight: Float[Tensor, "C D"],
    bias: Float[Tensor, "C"] | None,
    targets: Shaped[Tensor, "B C"],
    loss: Loss,
    mask: Bool[Tensor, "B C"] | None = None,
    *,
    chunk: int | None = None,
    sgd: ChunkedSGD | None = None,
) -> Tensor:
    """Compute ``loss(features @ weight.T + bias, targets, mask)`` without the (B, C) logits.

    Value and gradients are those of the plain computation, in ordinary training, under autocast and in distributed data
    parallel, with ``weight`` and ``bias`` parameters of the wrapped module. At most one chunk of logits is in memory;
    gradients of ``weight`` and ``bias`` are computed in the forward pass, in place.

    Args:
        features: (B, D) inputs of the head.
        weight: (C, D) weight of the head.
        bias: (C,) bias of the head, or None.
        targets: (B, C) labels: 0, 1, soft in [0, 1] (floating point), or unknown (−1 or NaN). Dense, or sparse CSR,
            where entries that are not stored are 0: then the cost of labels is that of the entries.
        loss: a named loss of C classes, with any reduction but ``"none"``.
        mask: (B, C), False where the label is unknown.
        chunk: classes at a time; by default, a chunk has about two million logits.
        sgd: updates ``weight`` and ``bias`` chunk by chunk in the forward pass, when gradients are enabled. They then
            receive no gradient, and none is allocated. Call ``backward`` on the loss itself: not scaled, and not added
            to another that reaches ``weight``.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes disagree, ``loss`` does not reduce, ``chunk`` is below 1, or (first batch, unless
            ``validate=False``) targets are out of range.

    Example:
        >>> from tailwise import LabelStats
        >>> from tailwise.losses import create
        >>> loss = create("db", LabelStats([60, 9, 2], num_samples=80))
        >>> features, head, targets = torch.randn(4, 8), torch.nn.Linear(8, 3), torch.eye(4, 3)
        >>> value = linear_loss(features, head.weight, head.bias, targets, loss)
        >>> torch.allclose(value, loss(head(features), targets))
        True
    """
    formula_loss = _checked_loss(features, weight, bias, targets, loss, mask, chunk, is_whole=True)
    size = chunk or _default_chunk(len(features))
    return ChunkedHead(features, weight, bias, targets, mask, formula_loss, size).attached(sgd)


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
    formula_loss = _checked_loss(features, weight, bias, targets, loss, mask, chunk, is_whole=False)
    if not 0 <= first <= first + len(weight) <= loss.num_classes:
        raise ValueError(
            f"the loss has {loss.num_classes} classes: the head of a process cannot have rows {first} to "
            f"{first + len(weight)}"
        )
    everything: Tensor = _GatherRows.apply(features, group)
    labels = _gather_labels(targets, group)
    known = None if mask is None else _gather(mask, group)[0]
    size, split = chunk or _default_chunk(len(everything)), ClassSplit(first, group)
    return ChunkedHead(everything, weight, bias, labels, known, formula_loss, size, split).attached(sgd)


def _checked_loss(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    loss: Loss,
    mask: Tensor | None,
    chunk: int | None,
    *,
    is_whole: bool,
) -> FormulaLoss:
    """The loss, unless a head, or some rows of one, does not fit its batch or its loss: then raise ValueError."""
    if not isinstance(loss, FormulaLoss):
        if isinstance(loss, Loss):
            raise ValueError(
                "a head in chunks needs a loss that is a sum over labels, which this one is not: compute the logits, "
                "loss(functional.linear(features, weight, bias), targets)"
            )
        raise ValueError(f"loss must be one of tailwise.losses, such as create('db', stats), got {type(loss).__name__}")
    for name, tensor in (("features", features), ("weight", weight), *(() if bias is None else (("bias", bias),))):
        require_tensor(name, tensor)
        require_type(name, tensor)
    if is_whole and len(weight) != loss.num_classes:
        raise ValueError(f"weight must have a row for each of {loss.num_classes} classes, got {len(weight)}")
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"features must be (B, D) and weight (C, D), got {tuple(features.shape)} and {tuple(weight.shape)}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({len(weight)},), one for each row of weight, got {tuple(bias.shape)}")
    check_labels(targets, mask, (len(features), loss.num_classes), features.device, "the features")
    if loss.reduction == "none":
        raise ValueError("linear_loss returns one number: the reduction of the loss must not be 'none'")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 class, got {chunk}")
    loss.check_first_batch(targets)
    return loss


def _default_chunk(samples: int) -> int:
    """Classes of a chunk that has two million logits."""
    return max(1, LOGITS_AT_ONCE // max(samples, 1))


class _GatherRows(torch.autograd.Function):
    """Rows of all processes; backward adds the gradients from the classes of each process."""

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
