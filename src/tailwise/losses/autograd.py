"""Autograd functions for values whose gradient is known in closed form."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.function import once_differentiable


class ClosedForm(NamedTuple):
    """The derivative of a value by the (B, C) logits, and ways to recompute it."""

    rest: Tensor | float
    """A scalar factor of the derivative that the gradient does not include."""
    again: Callable[[Tensor], Tensor | None]
    """Recomputes the gradient from the logits, for a second backward pass."""
    differentiable: Callable[[Tensor], Tensor]
    """Computes the gradient by operations that torch differentiates, for ``create_graph=True``."""
    scale: Callable[[Tensor, Tensor], Tensor]
    """Multiplies a gradient in place."""
    labels: Sequence[Tensor | None]
    """The targets and the mask, from which the gradient is recomputed."""


def attach(logits: Tensor, value: Tensor, gradient: Tensor, closed: ClosedForm) -> Tensor:
    """Attach a value that was computed outside the autograd graph to its logits.

    Args:
        logits: (B, C) logits that the value was computed from.
        value: a scalar, or (B, C) values. It becomes the result, which can be changed in place like that of any
            operation: no other tensor may share its memory.
        gradient: (B, C) derivative of the value by the logits, up to a factor. The backward pass scales it in place,
            so that no second table of its size is allocated.
        closed: that factor, and ways to recompute the gradient.
    """
    attached: Tensor
    if torch.compiler.is_compiling():
        attached = _Traced.apply(logits, value, gradient, closed.rest)
    else:
        attached = _Attached.apply(logits, (value, gradient), closed)
    return attached


def is_transformed(tensor: Tensor) -> bool:
    """Whether torch.func transforms the computation, or a tensor carries a forward-mode tangent.

    A closed form computed outside the graph would then be a constant, and kernels would have no memory to read.
    """
    return is_transforming() or unpack_dual(tensor).tangent is not None


def is_transforming() -> bool:
    """Whether torch.func transforms the computation."""
    return torch._C._are_functorch_transforms_active()


def times_upstream(gradient: Tensor, factor: Tensor, scale: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A gradient times the upstream one: in place by ``scale``, unless upstream gradients are batched."""
    if is_transforming() or torch._C._functorch.is_legacy_batchedtensor(factor):
        return (gradient * factor).to(gradient.dtype)
    return scale(gradient, factor)


def once(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor | None], reason: str) -> tuple[Tensor | None, ...]:
    """Gradients that cannot be differentiated: an attempt raises RuntimeError with the reason.

    Args:
        gradients: computed outside the graph.
        inputs: tensors that they depend on.
        reason: why they have no derivative, and the way out.
    """
    given: tuple[Tensor | None, ...] = _Once.apply(gradients, reason, *inputs)
    return given


class _Attached(torch.autograd.Function):
    """Returns the stored gradient in the first backward pass, and recomputes it in later ones."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, made: tuple[Tensor, Tensor], closed: ClosedForm) -> Tensor:
        # The value comes inside a tuple, so that autograd treats it as a new tensor: a returned argument would become
        # a view, which must not be changed in place.
        value, ctx.gradient = made
        ctx.save_for_backward(logits)
        ctx.closed, ctx.versions = closed, _versions(closed.labels)
        return value

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, None, None]:
        closed: ClosedForm = ctx.closed
        factor = upstream if isinstance(closed.rest, float) and closed.rest == 1 else upstream * closed.rest
        if torch.is_grad_enabled():  # with create_graph=True: the gradient is to be differentiated
            _require_unchanged(closed.labels, ctx.versions)
            (logits,) = ctx.saved_tensors
            return (closed.differentiable(logits) * factor).to(logits.dtype), None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:
            _require_unchanged(closed.labels, ctx.versions)
            gradient = closed.again(*ctx.saved_tensors)
        return times_upstream(gradient, factor, closed.scale), None, None


class _Traced(torch.autograd.Function):
    """The same while torch.compile traces, which manages memory itself."""

    @staticmethod
    def forward(ctx: Any, _logits: Tensor, value: Tensor, gradient: Tensor, rest: Tensor | float) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.rest = rest
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (upstream * ctx.rest * gradient).to(gradient.dtype), None, None, None


class _Once(torch.autograd.Function):
    """Identity on gradients, without a derivative; once_differentiable of torch allows one of constants."""

    @staticmethod
    def forward(
        ctx: Any, gradients: Sequence[Tensor | None], reason: str, *_inputs: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        ctx.reason = reason
        return tuple(gradients)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise RuntimeError(ctx.reason)


def _versions(tensors: Sequence[Tensor | None]) -> list[int | None]:
    """Version counters of tensors, None where torch keeps none."""
    return [None if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors]


def _require_unchanged(tensors: Sequence[Tensor | None], versions: list[int | None]) -> None:
    if _versions(tensors) != versions:
        raise RuntimeError(
            "targets or mask have been changed in place since the loss was computed, and its gradient has to be "
            "recomputed from them: give the loss a clone"
        )
