"""Attaching values whose gradient is known in closed form to the graph of what they were computed from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual
from torch.autograd.function import once_differentiable


class ClosedForm(NamedTuple):
    """How the derivative of a value by the (B, C) logits is made, and made again."""

    rest: Tensor | float
    """A factor of the derivative that the gradient lacks, a scalar."""
    again: Callable[[Tensor], Tensor | None]
    """Makes the gradient anew from the logits, when the backward pass runs a second time."""
    differentiable: Callable[[Tensor], Tensor]
    """Makes the gradient of operations that torch differentiates, when a graph of the backward pass is wanted."""
    scale: Callable[[Tensor, Tensor], Tensor]
    """Multiplies a gradient in place."""
    labels: Sequence[Tensor | None]
    """The targets and the mask, from which the gradient is made again."""


def attach(logits: Tensor, value: Tensor, gradient: Tensor, closed: ClosedForm) -> Tensor:
    """Give a value that was computed outside the graph its place in it, as a function of the logits.

    Args:
        logits: (B, C) what the value was computed from.
        value: a scalar, or (B, C) values. It becomes the result, which can be changed in place as that of any
            operation: nothing else may hold it.
        gradient: (B, C) derivative of the value by the logits, but for a factor. It is given away: the backward pass
            scales it in place, so that no second table of its size is made.
        closed: that factor, and the ways to make the gradient again.
    """
    attached: Tensor
    if torch.compiler.is_compiling():
        attached = _Traced.apply(logits, value, gradient, closed.rest)
    else:
        attached = _Attached.apply(logits, (value, gradient), closed)
    return attached


def is_transformed(tensor: Tensor) -> bool:
    """Whether torch.func transforms what is being computed, or a tensor carries a tangent of forward mode.

    Then a closed form that was made outside the graph would be a constant, and there is no memory to give to a kernel.
    """
    return is_transforming() or unpack_dual(tensor).tangent is not None


def is_transforming() -> bool:
    """Whether torch.func transforms what is being computed."""
    return torch._C._are_functorch_transforms_active()


def times_upstream(gradient: Tensor, factor: Tensor, scale: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """A gradient times what came from above: in place by ``scale``, unless several come at once."""
    if is_transforming() or torch._C._functorch.is_legacy_batchedtensor(factor):
        return (gradient * factor).to(gradient.dtype)
    return scale(gradient, factor)


def once(gradients: Sequence[Tensor | None], inputs: Sequence[Tensor | None], reason: str) -> tuple[Tensor | None, ...]:
    """Gradients that cannot be differentiated: whoever tries gets a RuntimeError with the reason.

    Args:
        gradients: made outside the graph.
        inputs: what they depend on.
        reason: why they have no derivative, and the way out.
    """
    given: tuple[Tensor | None, ...] = _Once.apply(gradients, reason, *inputs)
    return given


class _Attached(torch.autograd.Function):
    """Hands the gradient over in the first backward pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, made: tuple[Tensor, Tensor], closed: ClosedForm) -> Tensor:
        # Autograd takes the value for a new tensor, because it is no argument by itself: one that is returned would
        # become a view, which must not be changed in place.
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
    """The same for a program that is being compiled, which needs no buffer of its own."""

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
    """Passes gradients on; once_differentiable of torch refuses nothing where what came from above is a constant."""

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
    """How often tensors have been changed in place, where torch counts it."""
    return [None if tensor is None or tensor.is_inference() else tensor._version for tensor in tensors]


def _require_unchanged(tensors: Sequence[Tensor | None], versions: list[int | None]) -> None:
    if _versions(tensors) != versions:
        raise RuntimeError(
            "targets or mask have been changed in place since the loss was computed, and its gradient is to be made "
            "anew from them: give the loss a clone"
        )
