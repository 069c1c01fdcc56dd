"""A linear head and its loss in one, some classes at a time: the logits of all classes never exist.

For a chunk of classes, every sample's logits are there, so that statistics, weights and gradients of these classes are
complete; what couples the classes (the positives of a sample, the groups of PG) follows from the labels alone, or from
the logits of positives. Two matrix products per chunk give the gradients, and the chunk is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional

from tailwise.losses.autograd import is_transformed, once, times_upstream
from tailwise.losses.backends import Backend, Wanted, choose
from tailwise.losses.batches import LabelChunks, check_labels, is_sparse, require_tensor, require_type
from tailwise.losses.formula import Coefficients, Side
from tailwise.losses.loss import FormulaLoss, Loss, divisor_in_advance
from tailwise.losses.sgd import ChunkedSGD
from tailwise.losses.statistics import add_over_processes
from tailwise.losses.steering import Steering
from tailwise.shapes import Bool, Float, Shaped

Gradients: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of features, weight and bias; None where none is wanted."""

_LOGITS_AT_ONCE = 1 << 21
_ONCE = (
    "a head whose loss is computed in chunks has the first derivatives of a backward pass only: for second ones, "
    "forward mode or torch.func compute the logits, loss(functional.linear(features, weight, bias), targets)"
)


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

    Value and gradients are those of the plain way, in ordinary training, under autocast and in several processes
    (distributed data parallel, with ``weight`` and ``bias`` parameters of the wrapped module). At most one chunk of
    logits is held; gradients of ``weight`` and ``bias`` are made in the forward pass, in place.

    Args:
        features: (B, D) inputs of the head.
        weight: (C, D) weight of the head.
        bias: (C,) bias of the head, or None.
        targets: (B, C) labels: 0, 1, soft in [0, 1] (floating point), or unknown (−1 or NaN). Dense, or sparse CSR,
            where what is not stored is 0: then the cost of labels is that of the entries.
        loss: a named loss of C classes, with any reduction but ``"none"``.
        mask: (B, C), False where the label is unknown.
        chunk: classes at a time; by default such that a chunk has two million logits.
        sgd: updates ``weight`` and ``bias`` chunk by chunk in the forward pass, when gradients are enabled. They then
            receive no gradient, whose memory need not exist. The loss must be passed to ``backward`` as it is: not
            scaled, not added to another that reaches ``weight``.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes disagree, ``loss`` does not reduce, ``chunk`` is below 1, or (first batch, unless
            ``validate=False``) targets are out of range.
    """
    formula_loss = checked_loss(features, weight, bias, targets, loss, mask, chunk, is_whole=True)
    size = chunk or default_chunk(len(features))
    return Head(features, weight, bias, targets, mask, formula_loss, size).attached(sgd)


def default_chunk(samples: int) -> int:
    """Classes of a chunk that has two million logits."""
    return max(1, _LOGITS_AT_ONCE // max(samples, 1))


@runtime_checkable
class Split(Protocol):
    """How a process that has some of the classes learns what the others have found."""

    first: int
    """The first class of this process."""

    def add(self, table: Tensor) -> None:
        """Add a tensor of all processes in place."""


class Head:
    """Head and loss of one batch.

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
        split: Split | None = None,
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
            inputs, backend = self.inputs, self.backend
            needs_slopes = any(wanted) or sgd is not None
            whole = self.divisor()
            # In float16 what is divided by the number of pairs would lose its digits: it is divided afterwards.
            factor, rest = (1.0, 1 / whole) if self.dtype == torch.float16 else (1 / whole, 1.0)
            gradients = self._empty_gradients(wanted)
            total = torch.zeros((), dtype=torch.float64, device=inputs.device)
            coefficients_of = self._coefficients_of
            for classes in self.chunks.slices:
                labels, mask = self.chunks.labels(classes)
                logits = self._logits(inputs, classes)
                coefficients = coefficients_of(classes, logits, labels, mask)
                if self.loss.correction is not None:
                    labels = self.loss.correction(logits, labels, self._corrects)
                wanted_here = Wanted(needs_slopes, values=False, factor=factor, out=logits)
                evaluated = backend.evaluate(logits, labels, mask, coefficients, wanted_here)
                total += evaluated.total
                if evaluated.gradient is not None:
                    self._add(gradients, classes, evaluated.gradient, inputs, rest)
                    if sgd is not None:
                        self._step(sgd, classes, evaluated.gradient, inputs, rest)
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
        """Where the classes are in the head."""
        return slice(classes.start - self.first, classes.stop - self.first)

    def _logits(self, inputs: Tensor, classes: slice) -> Tensor:
        rows = self._rows(classes)
        bias = None if self.bias is None else self.bias[rows].to(self.dtype)
        return functional.linear(inputs, self.weight[rows].to(self.dtype), bias)

    def _empty_gradients(self, wanted: tuple[bool, bool, bool]) -> Gradients:
        by_features = torch.zeros_like(self.features, dtype=_accurate(self.dtype)) if wanted[0] else None
        by_weight = torch.empty_like(self.weight) if wanted[1] else None
        by_bias = torch.empty_like(self.bias) if wanted[2] and self.bias is not None else None
        return by_features, by_weight, by_bias

    def _add(self, gradients: Gradients, classes: slice, slope: Tensor, inputs: Tensor, rest: float) -> None:
        """Add a chunk to the gradients."""
        by_features, by_weight, by_bias = gradients
        rows = self._rows(classes)
        if by_features is not None:
            by_features += slope @ self.weight[rows].to(self.dtype)
        if by_weight is not None:
            by_weight[rows] = _scaled(slope.T @ inputs, rest)
        if by_bias is not None:
            by_bias[rows] = _scaled(slope.sum(0, dtype=_accurate(self.dtype)), rest)

    def _step(self, sgd: ChunkedSGD, classes: slice, slope: Tensor, inputs: Tensor, rest: float) -> None:
        """Update the classes of a chunk; what the features receive has been computed from them before."""
        rows = self._rows(classes)
        gradient = _scaled((slope.T @ inputs).to(self.weight.dtype), rest)
        sgd.update("weight", self.weight, rows, self._averaged(gradient))
        if self.bias is not None:
            gradient = _scaled(slope.sum(0, dtype=self.bias.dtype), rest)
            sgd.update("bias", self.bias, rows, self._averaged(gradient))

    def _averaged(self, gradient: Tensor) -> Tensor:
        """The mean over processes that have the same head, as distributed data parallel makes it."""
        if self.split is None:
            processes = add_over_processes(gradient)
            gradient /= processes
        return gradient

    @cached_property
    def _coefficients_of(self) -> Callable[[slice, Tensor, Tensor, Tensor | None], Coefficients]:
        """A function of a chunk: its classes, logits, labels and mask. A second pass has the same as the first."""
        loss, pair_weight = self.loss, self.loss.weigh(self.backend, self.targets, self.mask)
        sides = self._sides(self.backend, self.inputs)

        def coefficients(classes: slice, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Coefficients:
            label = None if pair_weight.label is None else pair_weight.label[classes]
            positive, negative = sides(classes, logits, labels, mask)
            return loss.coefficients(positive, negative, pair_weight._replace(label=label))

        return coefficients

    @cached_property
    def _corrects(self) -> Tensor:
        """Whether the labels of this batch are corrected, in a second pass as in the first."""
        assert self.loss.correction is not None
        return self.loss.correction.observe(len(self.features), sync=self.split is None)

    def _sides(
        self, backend: Backend, inputs: Tensor
    ) -> Callable[[slice, Tensor, Tensor, Tensor | None], tuple[Side, Side]]:
        """A function of a chunk, again: its two sides, guided where the loss is."""
        loss, guidance = self.loss, self.loss.guidance

        def fixed(classes: slice) -> tuple[Side, Side]:
            return _of_classes(loss.side("positive"), classes), _of_classes(loss.side("negative"), classes)

        if isinstance(guidance, Steering):
            guidance.observe(self._all_sums(backend, inputs))
            now = guidance.steered(*fixed(slice(None)))
            return lambda classes, *_: (_of_classes(now[0], classes), _of_classes(now[1], classes))
        if guidance is None:
            return lambda classes, *_: fixed(classes)
        may_be_soft = self.targets.is_floating_point() and not is_sparse(self.targets)
        sums = self._all_sums(backend, inputs) if may_be_soft else self._positive_sums(inputs)
        groups = guidance.group_means(sums[:2])

        def guided(classes: slice, logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Side, Side]:
            own = backend.probability_sums(logits, labels, mask)
            if self.split is None:
                loss.share_sums(own)
            sides: tuple[Side, Side] = guidance(own, *fixed(classes), classes, groups)
            return sides

        return guided

    def _all_sums(self, backend: Backend, inputs: Tensor) -> Float[Tensor, "4 C"]:
        """Σ p y, Σ y, Σ p (1 − y) and Σ (1 − y) of every class: a pass over all logits."""
        sums = inputs.new_zeros(4, self.loss.num_classes, dtype=_accurate(self.dtype))
        for classes in self.chunks.slices:
            logits = self._logits(inputs, classes)
            sums[:, classes] = backend.probability_sums(logits, *self.chunks.labels(classes)).to(sums.dtype)
        return self._shared(sums)

    def _positive_sums(self, inputs: Tensor) -> Float[Tensor, "2 C"]:
        """Σ p y and Σ y of every class, from the logits of positives alone."""
        sums = inputs.new_zeros(2, self.loss.num_classes, dtype=_accurate(self.dtype))
        step = max(1, _LOGITS_AT_ONCE // max(inputs.shape[1], 1))
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
        """Sums of all processes: of the same classes, or of the classes that each has."""
        if self.split is None:
            return self.loss.share_sums(sums)
        self.split.add(sums)
        return sums


class _Attached(torch.autograd.Function):
    """Hands the gradients over in the first backward pass, and evaluates anew in a second one."""

    @staticmethod
    def forward(
        ctx: Any,
        head: Head,
        wanted: tuple[bool, bool, bool],
        sgd: ChunkedSGD | None,
        *inputs: Tensor | None,
    ) -> Tensor:
        # Others may be tensors of inference mode, which cannot be saved, or be updated in this very pass.
        ctx.save_for_backward(*(tensor if wants else None for tensor, wants in zip(inputs, wanted, strict=True)))
        value, ctx.gradients = head.run(wanted, sgd)
        ctx.head, ctx.wanted, ctx.has_stepped = head, wanted, sgd is not None
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            if ctx.has_stepped:
                raise RuntimeError("a head that has been updated in the forward pass has one backward pass only")
            _ = ctx.saved_tensors  # torch says if one of them has been changed since
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


def _of_classes(side: Side, classes: slice) -> Side:
    return side.with_factors(factor[classes] if isinstance(factor, Tensor) else factor for factor in side.factors)


def _accurate(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _scaled(gradient: Tensor, factor: float) -> Tensor:
    return gradient if factor == 1 else gradient * factor


def checked_loss(
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
