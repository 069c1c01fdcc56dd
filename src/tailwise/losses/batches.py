"""Checks of batches of logits and labels, and access to dense or sparse labels by samples and by classes."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from tailwise.losses.formula import known_pairs
from tailwise.shapes import Bool, Float, Shaped

_LOGIT_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_TARGET_TYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, *_LOGIT_TYPES)


def check_batch(logits: Tensor, targets: Tensor, mask: Tensor | None, num_classes: int) -> None:
    """Raise ValueError unless logits, targets and mask are tensors of one shape, types and device that fit."""
    require_tensor("logits", logits)
    if logits.ndim != 2 or logits.shape[1] != num_classes:
        raise ValueError(
            f"logits must be (batch, {num_classes}), got {tuple(logits.shape)}{_as_rows(logits, num_classes)}"
        )
    require_type("logits", logits)
    check_labels(targets, mask, (len(logits), num_classes), logits.device, "the logits")


def check_labels(
    targets: Tensor, mask: Tensor | None, shape: tuple[int, int], device: torch.device, whose: str
) -> None:
    """Raise ValueError unless targets and mask are tensors of this shape, on the device of ``whose``."""
    require_tensor("targets", targets)
    if targets.shape != shape:
        indices = targets.ndim == 1 and len(targets) == shape[0] and not targets.is_floating_point()
        raise ValueError(
            f"targets must be {shape}, samples by classes of the loss, got {tuple(targets.shape)}"
            + (": one label for every class, not the index of a class" if indices else "")
        )
    if targets.layout not in (torch.strided, torch.sparse_csr):
        raise ValueError(f"targets must be dense or sparse CSR, got {targets.layout}: give targets.to_sparse_csr()")
    if targets.dtype not in _TARGET_TYPES:
        raise ValueError(
            f"targets must be boolean, integer or floating point, got {targets.dtype}: give targets.to(torch.int8), or "
            "float32 if they are soft"
        )
    if targets.device != device:
        raise ValueError(f"targets are on {targets.device}, {whose} on {device}: give targets.to({str(device)!r})")
    if (torch.is_grad_enabled() and targets.requires_grad) or unpack_dual(targets).tangent is not None:
        raise ValueError("targets require a gradient, which only the logits receive: give targets.detach()")
    if mask is None:
        return
    require_tensor("mask", mask)
    if mask.shape != shape or mask.dtype != torch.bool:
        raise ValueError(
            f"mask must be boolean with the shape of the targets {shape}, got {mask.dtype} {tuple(mask.shape)}"
            + (": give mask.bool()" if mask.shape == shape else "")
        )
    if mask.device != device:
        raise ValueError(f"mask is on {mask.device}, {whose} on {device}: give mask.to({str(device)!r})")


def check_targets(targets: Tensor) -> None:
    """Raise ValueError unless every target is in [0, 1] or unknown."""
    if is_sparse(targets):
        targets = targets.values()
    if targets.dtype == torch.bool:
        return
    allowed = ((targets >= 0) & (targets <= 1)) | (targets == -1) | (targets != targets)
    if not bool(allowed.all()):
        wrong = targets[~allowed][0].item()
        raise ValueError(f"targets must be 0, 1, soft in [0, 1], or unknown (-1 or NaN); found {wrong}")


def has_soft(targets: Tensor) -> bool:
    """Whether a target lies between 0 and 1."""
    values = targets.values() if is_sparse(targets) else targets
    return values.is_floating_point() and bool(((values > 0) & (values < 1)).any())


def require_tensor(name: str, given: object) -> None:
    """Raise ValueError unless something is a tensor."""
    if isinstance(given, Tensor):
        return
    kind = f"{type(given).__module__}.{type(given).__qualname__}".removeprefix("builtins.")
    if isinstance(given, list | tuple):
        way = f": give torch.tensor({name})"
    elif hasattr(given, "to_numpy"):
        way = f": give torch.from_numpy({name}.to_numpy())"
    else:
        way = f": give torch.from_numpy({name})" if hasattr(given, "__array__") else ""
    raise ValueError(f"{name} must be a torch.Tensor, got {kind}{way}")


def require_type(name: str, given: Tensor) -> None:
    """Raise ValueError unless a tensor is dense, of a type that can be computed with."""
    if given.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got {given.layout}: give {name}.to_dense()")
    if given.dtype not in _LOGIT_TYPES:
        kinds = ", ".join(str(kind).removeprefix("torch.") for kind in _LOGIT_TYPES)
        raise ValueError(f"{name} must be floating point ({kinds}), got {given.dtype}")


def _as_rows(logits: Tensor, num_classes: int) -> str:
    """The way out, where the last dimension is that of the classes."""
    if logits.ndim == 0 or logits.shape[-1] != num_classes or logits.ndim == 2:
        return ""
    if logits.ndim == 1:
        return ": logits[None] and targets[None] are a batch of one"
    return f": flatten(0, {logits.ndim - 2}) makes rows of logits and of targets"


def is_sparse(targets: Tensor) -> bool:
    """Whether targets are a sparse CSR tensor: what it does not store is 0."""
    return targets.layout == torch.sparse_csr


def dense_rows(targets: Shaped[Tensor, "B C"], rows: slice) -> Shaped[Tensor, "b C"]:
    """The labels of some samples as a dense tensor; a view if they are dense already."""
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
    entries = torch.where(entries > 0, entries, 0)  # unknown labels, −1 or NaN, add nothing
    owner = _owners(targets)
    sums = values.new_zeros(len(values), targets.shape[0])
    return sums.index_add_(1, owner, values[:, targets.col_indices()] * entries).T


def _owners(targets: Tensor) -> Tensor:
    """The sample of every entry of CSR targets."""
    return torch.repeat_interleave(targets.crow_indices().diff(), output_size=targets.values().numel())


class LabelChunks:
    """Labels of all samples as dense tensors, a chunk of adjacent classes at a time.

    The entries of CSR targets are sorted by class once, so that the cost of a chunk is that of its entries.

    Args:
        targets: (B, C) labels, dense or sparse CSR.
        mask: (B, C), False where the label is unknown.
        classes: the classes that the chunks cover.
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

    Boolean and uint8 labels are viewed as int8; only wider integers are copied.
    """
    if is_sparse(targets):
        values = to_kind(targets.values())
        return torch.sparse_csr_tensor(
            targets.crow_indices(), targets.col_indices(), values, targets.shape, check_invariants=False
        )
    if targets.dtype in (torch.bool, torch.uint8):
        return targets.view(torch.int8)
    return targets.to(torch.float32 if targets.is_floating_point() else torch.int8)
