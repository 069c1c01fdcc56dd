"""Attaching values whose gradient is known in closed form to the graph of the logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tailwise.losses.implementation import Evaluated


def attach(
    logits: Tensor,
    value: Tensor,
    gradient: Tensor,
    rest: Tensor | float,
    again: Callable[[], Evaluated],
    scale: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Give a value computed outside the graph its gradient with respect to the logits.

    The gradient is given away: the backward pass scales it in place, so that no second table of its size is made.

    Args:
        logits: (B, C) what the value was computed from.
        value: a scalar, or (B, C) values.
        gradient: (B, C) derivative of the value by the logits, but for the factor ``rest``.
        rest: a further factor of the derivative, a scalar.
        again: evaluates anew, gradient included, when the backward pass runs a second time.
        scale: multiplies the gradient in place.
    """
    attached: Tensor
    if torch.compiler.is_compiling():
        attached = _Traced.apply(logits, value, gradient, rest)
    else:
        attached = _Attached.apply(logits, value, gradient, rest, again, scale)
    return attached


class _Attached(torch.autograd.Function):
    """Hands the gradient over in the first backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        _logits: Tensor,
        value: Tensor,
        gradient: Tensor,
        rest: Tensor | float,
        again: Callable[[], Evaluated],
        scale: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        # Not save_for_backward: what it saves must stay as it is.
        ctx.gradient, ctx.rest, ctx.again, ctx.scale = gradient, rest, again, scale
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradient = ctx.again().gradient if ctx.gradient is None else ctx.gradient
        ctx.gradient = None
        factor = upstream if isinstance(ctx.rest, float) and ctx.rest == 1 else upstream * ctx.rest
        return ctx.scale(gradient, factor), None, None, None, None, None


class _Traced(torch.autograd.Function):
    """The same for a program that is being compiled, which needs no buffer of its own."""

    @staticmethod
    def forward(ctx: Any, _logits: Tensor, value: Tensor, gradient: Tensor, rest: Tensor | float) -> Tensor:
        ctx.save_for_backward(gradient)
        ctx.rest = rest
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (upstream * ctx.rest * gradient).to(gradient.dtype), None, None, None
