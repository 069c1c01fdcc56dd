"""The term through torch.compile: one program for each loss, type and kind of shape."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tailwise.losses.eager import Eager
from tailwise.losses.implementation import Backend, Evaluated
from tailwise.losses.targets import dense_rows
from tailwise.losses.term import Coefficients
from tailwise.shapes import Bool, Float, Shaped


class Compiled(Backend):
    """The operations of :class:`tailwise.losses.eager.Eager`, compiled when they first run."""

    def row_sums(
        self, targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None, values: Float[Tensor, "M C"]
    ) -> Float[Tensor, "B M"]:
        sums: Tensor = self._programs["row_sums"](_dense(targets), mask, values)
        return sums

    def probability_sums(
        self, logits: Float[Tensor, "B C"], targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None
    ) -> Float[Tensor, "4 C"]:
        sums: Tensor = self._programs["probability_sums"](logits.detach(), _dense(targets), mask)
        return sums

    def evaluate(
        self,
        logits: Float[Tensor, "B C"],
        targets: Shaped[Tensor, "B C"],
        mask: Bool[Tensor, "B C"] | None,
        coefficients: Coefficients,
        *,
        gradient: bool,
        values: bool,
        factor: float = 1.0,
        out: Tensor | None = None,
    ) -> Evaluated:
        program = self._programs["evaluate"]
        evaluated: Evaluated = program(
            logits.detach(),
            _dense(targets),
            mask,
            coefficients,
            gradient=gradient,
            values=values,
            factor=factor,
            out=out,
        )
        return evaluated

    @cached_property
    def _programs(self) -> dict[str, Any]:
        eager = Eager()
        return {name: torch.compile(getattr(eager, name)) for name in ("row_sums", "probability_sums", "evaluate")}


def _dense(targets: Tensor) -> Tensor:
    return dense_rows(targets, slice(None))
