"""A linear head and its loss in one pass over chunks of classes, and SGD updates of the head in the same pass.

A chunk has the logits of all samples, so that the statistics, weights and gradients of its classes are complete.
Dependences between classes (on the positives of a sample, on the groups of PG) follow from the labels alone, or from
the logits of positives. Two matrix products per chunk give the gradients, and the chunk is discarded.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from tailwise.losses.autograd import is_transformed, once, times_upstream
from tailwise.losses.backends import Wanted, choose
from tailwise.losses.batches import LabelChunks, is_sparse
from tailwise.losses.formula import Coefficients, PairWeight, Side
from tailwise.losses.guidance import GroupMeans, Guidance, Steering, add_over_processes
from tailwise.losses.loss import FormulaLoss, divisor_in_advance
from tailwise.shapes import Float

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of features, weight and bias; None where none is wanted."""

LOGITS_AT_ONCE = 1 << 21
_ONCE = (
    "a head whose loss is computed in chunks has the first derivatives of a backward pass only: for second ones, "
    "forward mode or torch.func compute the logits, loss(functional.linear(features, weight, bias), targets)"
)


class ChunkedSGD:
    """The update of :class:`torch.optim.SGD` (momentum and weight decay) for a head, a chunk of rows at a time.

    For :func:`tailwise.losses.linear_loss`, which calls it: the gradient of the whole head is never stored. Parameters
    and momentum are updated in place.

    Args:
        lr: learning rate; set the attribute to follow a schedule.
        momentum: momentum; 0 keeps no buffers.
        weight_decay: L2 penalty.

    Raises:
        ValueError: a number is negative.

    Example:
        >>> weight = torch.ones(2, 1)
        >>> ChunkedSGD(lr=0.5).update("weight", weight, slice(0, 1), gradient=torch.ones(1, 1))
        >>> weight.flatten()
        tensor([0.5000, 1.0000])
    """

    def __init__(self, lr: float, *, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        for name, value in (("lr", lr), ("momentum", momentum), ("weight_decay", weight_decay)):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._buffers: dict[str, Tensor] = {}

    def update(self, name: str, parameter: Tensor, rows: slice, gradient: Tensor) -> None:
        """Update some rows of the parameter ``name`` of a head."""
        own = parameter[rows]
        if self.weight_decay:
            gradient = gradient.add(own, alpha=self.weight_decay)
        if self.momentum:
            if name not in self._buffers:
                self._buffers[name] = torch.zeros_like(parameter)
            gradient = self._buffers[name][rows].mul_(self.momentum).add_(gradient)
        own.sub_(gradient, alpha=self.lr)

    def state_dict(self) -> dict[str, Any]:
        """The rate and the momentum buffers."""
        return {"lr": self.lr, "buffers": dict(self._buffers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.lr = state["lr"]
        self._buffers = {name: buffer.clone() for name, buffer in state["buffers"].items()}


class ClassSplit:
    """The first class of this process, and sums over the processes."""

    def __init__(self, first: int, group: dist.ProcessGroup | None) -> None:
        self.first, self._group = first, group

    def add(self, table: Tensor) -> None:
        """Add a tensor of all processes in place."""
        dist.all_reduce(table, group=self._group)


class ChunkedHead:
    """A head, or some of its rows, and its loss on one batch.

    Args:
        features: (B, D) inputs.
        weight: (c, D) weight of some neighbouring classes: all, unless there is a split.
        bias: (c,) their bias, or None.
        targets: (B, C) labels of all classes.
        mask: (B, C), False where the label is unknown.
        loss: loss of C classes.
        size: classes of a chunk.
        split: where the other classes are.
    """

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        mask: Tensor | None,
        loss: FormulaLoss,
        size: int,
        split: ClassSplit | None = None,
    ) -> None:
        device = features.device.type
        autocast = torch.is_autocast_enabled(device)
        plain = torch.promote_types(features.dtype, weight.dtype)
        self.dtype = torch.get_autocast_dtype(device) if autocast else plain
        self.tensors = (features, weight, bias)
        self.features, self.weight = features.detach(), weight.detach()
        self.inputs = self.features.to(self.dtype)
        self.bias = None if bias is None else bias.detach()
        self.targets, self.mask, self.loss, self.split = targets, mask, loss, split
        self.first = 0 if split is None else split.first
        self.backend = choose(loss.impl, self.inputs)
        self.chunks = LabelChunks(targets, mask, range(self.first, self.first + len(weight)), size)

    def attached(self, sgd: ChunkedSGD | None) -> Tensor:
        """The value, with the gradients of what requires them."""
        if any(tensor is not None and is_transformed(tensor) for tensor in self.tensors):
            raise RuntimeError(_ONCE)
        wanted = [tensor is not None and tensor.requires_grad for tensor in self.tensors]
        if not (torch.is_grad_enabled() and any(wanted)):
            with torch.no_grad():
                return self.run((False, False, False), None)[0]
        if sgd is not None:
            wanted[1:] = [False, False]
        value: Tensor = _Attached.apply(self, tuple(wanted), sgd, *self.tensors)
        return value

    def run(self, wanted: tuple[bool, bool, bool], sgd: ChunkedSGD | None) -> tuple[Tensor, Gradients]:
        """Value, and the gradients of features, weight and bias that are wanted."""
        with torch.autocast(self.features.device.type, enabled=False):
            needs_slopes = any(wanted) or sgd is not None
            whole = self.divisor()
            # In float16 gradients divided by the number of pairs would underflow: they are divided afterwards.
            factor, rest = (1.0, 1 / whole) if self.dtype == torch.float16 else (1 / whole, 1.0)
            gradients = self._empty_gradients(wanted)
            total = torch.zeros((), dtype=torch.float64, device=self.inputs.device)
            _ = self._parameters  # sums over the processes come first, also in a process without classes
            for classes in self.chunks.slices:
                labels, mask = self.chunks.labels(classes)
                logits = self._logits(classes)
                coefficients = self._coefficients(classes, logits, labels, mask)
                if self.loss.correction is not None:
                    labels = self.loss.correction(logits, labels, self._corrects)
                wanted_here = Wanted(needs_slopes, values=False, factor=factor, out=logits)
                evaluated = self.backend.evaluate(logits, labels, mask, coefficients, wanted_here)
                total += evaluated.total
                if evaluated.gradient is not None:
                    self._add(gradients, classes, evaluated.gradient, rest)
                    if sgd is not None:
                        self._step(sgd, classes, evaluated.gradient, rest)
            if self.split is not None:
                self.split.add(total)
            value = (total / whole).to(_accurate(self.dtype))
            by_features = None if gradients[0] is None else (gradients[0] * rest).to(self.features.dtype)
            return value, (by_features, *gradients[1:])

    def divisor(self) -> int:
        """What the sum of the losses is divided by."""
        known = divisor_in_advance(self.loss.reduction, self.targets, self.mask)
        if known is not None:
            return known
        count = torch.as_tensor(self.chunks.count_known(), device=self.features.device)
        if self.split is not None:
            self.split.add(count)
        return max(int(count), 1)

    def _rows(self, classes: slice) -> slice:
        """The rows of the head that belong to the classes."""
        return slice(classes.start - self.first, classes.stop - self.first)

    def _logits(self, classes: slice) -> Tensor:
        rows = self._rows(classes)
        bias = None if self.bias is None else self.bias[rows].to(self.dtype)
        return functional.linear(self.inputs, self.weight[rows].to(self.dtype), bias)

    def _empty_gradients(self, wanted: tuple[bool, bool, bool]) -> Gradients:
        by_features = torch.zeros_like(self.features, dtype=_accurate(self.dtype)) if wanted[0] else None
        by_weight = torch.empty_like(self.weight) if wanted[1] else None
        by_bias = torch.empty_like(self.bias) if wanted[2] and self.bias is not None else None
        return by_features, by_weight, by_bias

    def _add(self, gradients: Gradients, classes: slice, slope: Tensor, rest: float) -> None:
        """Add a chunk to the gradients."""
        by_features, by_weight, by_bias = gradients
        rows = self._rows(classes)
        if by_features is not None:
            by_features += slope @ self.weight[rows].to(self.dtype)
        if by_weight is not None:
            by_weight[rows] = _scaled(slope.T @ self.inputs, rest)
        if by_bias is not None:
            by_bias[rows] = _scaled(slope.sum(0, dtype=_accurate(self.dtype)), rest)

    def _step(self, sgd: ChunkedSGD, classes: slice, slope: Tensor, rest: float) -> None:
        """Update the classes of a chunk, after the gradient of the features was computed from them."""
        rows = self._rows(classes)
        gradient = _scaled((slope.T @ self.inputs).to(self.weight.dtype), rest)
        sgd.update("weight", self.weight, rows, self._averaged(gradient))
        if self.bias is not None:
            gradient = _scaled(slope.sum(0, dtype=self.bias.dtype), rest)
            sgd.update("bias", self.bias, rows, self._averaged(gradient))

    def _averaged(self, gradient: Tensor) -> Tensor:
        """The mean over processes that have the same head, as in distributed data parallel."""
        if self.split is None:
            processes = add_over_processes(gradient)
            gradient /= processes
        return gradient

    @cached_property
    def _parameters(self) -> tuple[PairWeight, tuple[Side, Side], GroupMeans | None]:
        """Weights, sides and means of groups, from all classes of the batch; the same in a second pass."""
        loss, guidance = self.loss, self.loss.guidance
        weight = loss.weigh(self.backend, self.targets, self.mask)
        sides = loss.side("positive"), loss.side("negative")
        if guidance is None:
            return weight, sides, None
        if isinstance(guidance, Steering):
            guidance.observe(self._all_sums())
            return weight, guidance.steered(*sides), None
        may_be_soft = self.targets.is_floating_point() and not is_sparse(self.targets)
        sums = self._all_sums() if may_be_soft else self._positive_sums()
        return weight, sides, guidance.group_means(sums[:2])

    @cached_property
    def _corrects(self) -> Tensor:
        """Whether the labels of this batch are corrected; the same in a second pass."""
        assert self.loss.correction is not None
        return self.loss.correction.observe(len(self.features), sync=self.split is None)

    def _coefficients(self, classes: slice, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Coefficients:
        """The parameters of a chunk, guided by its logits if the loss is."""
        weight, sides, groups = self._parameters
        positive, negative = (of_classes(side, classes) for side in sides)
        if groups is not None:
            assert isinstance(self.loss.guidance, Guidance)
            own = self.backend.probability_sums(logits, labels, mask)
            if self.split is None:
                self.loss.guidance.shared(own)
            positive, negative = self.loss.guidance(own, positive, negative, classes, groups)
        label = None if weight.label is None else weight.label[classes]
        return self.loss.coefficients(positive, negative, weight._replace(label=label))

    def _all_sums(self) -> Float[Tensor, "4 C"]:
        """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) of every class: a pass over all logits."""
        sums = self.inputs.new_zeros(4, self.loss.num_classes, dtype=_accurate(self.dtype))
        for classes in self.chunks.slices:
            labels, mask = self.chunks.labels(classes)
            sums[:, classes] = self.backend.probability_sums(self._logits(classes), labels, mask).to(sums.dtype)
        return self._shared(sums)

    def _positive_sums(self) -> Float[Tensor, "2 C"]:
        """Σ p y and Σ y of every class, from the logits of positives alone."""
        inputs = self.inputs
        sums = inputs.new_zeros(2, self.loss.num_classes, dtype=_accurate(self.dtype))
        step = max(1, LOGITS_AT_ONCE // max(inputs.shape[1], 1))
        for classes in self.chunks.slices:
            for rows, columns, values in zip(*(p.split(step) for p in self.chunks.positives(classes)), strict=True):
                own = columns - self.first
                logits = (inputs[rows] * self.weight[own].to(self.dtype)).sum(1, dtype=sums.dtype)
                if self.bias is not None:
                    logits = logits + self.bias[own]
                p = torch.sigmoid(logits.to(self.dtype).to(sums.dtype))
                sums.index_add_(1, columns, torch.stack([p * values, values.to(p.dtype)]))
        return self._shared(sums)

    def _shared(self, sums: Tensor) -> Tensor:
        """Sums over all processes, which have the same classes or each its own."""
        if self.split is None:
            assert self.loss.guidance is not None
            return self.loss.guidance.shared(sums)
        self.split.add(sums)
        return sums


class _Attached(torch.autograd.Function):
    """Returns the stored gradients in the first backward pass, and recomputes them in a second one."""

    @staticmethod
    def forward(
        ctx: Any,
        head: ChunkedHead,
        wanted: tuple[bool, bool, bool],
        sgd: ChunkedSGD | None,
        *inputs: Tensor | None,
    ) -> Tensor:
        # Others may be inference tensors, which cannot be saved, or parameters that this pass updates.
        ctx.save_for_backward(*(tensor if wants else None for tensor, wants in zip(inputs, wanted, strict=True)))
        value, ctx.gradients = head.run(wanted, sgd)
        ctx.head, ctx.wanted, ctx.has_stepped = head, wanted, sgd is not None
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            if ctx.has_stepped:
                raise RuntimeError("a head that has been updated in the forward pass has one backward pass only")
            _ = ctx.saved_tensors  # torch raises if one of them was changed in place
            ctx.gradients = ctx.head.run(ctx.wanted, None)[1]
        made, ctx.gradients = ctx.gradients, None
        scale = ctx.head.backend.scale_
        with torch.no_grad():
            gradients: tuple[Tensor | None, ...] = tuple(
                None if gradient is None else times_upstream(gradient, upstream, scale) for gradient in made
            )
        if torch.is_grad_enabled():
            gradients = once(gradients, (*ctx.saved_tensors, upstream), _ONCE)
        return None, None, None, *gradients


def of_classes(side: Side, classes: slice) -> Side:
    """A side for some of the classes."""
    return side.with_factors(factor[classes] if isinstance(factor, Tensor) else factor for factor in side.factors)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scaled(gradient: Tensor, factor: float) -> Tensor:
    return gradient if factor == 1 else gradient * factor
