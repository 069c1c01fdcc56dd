"""The term by operations of torch, a block of samples at a time, in little more memory than the gradient.

This is the reference for the other implementations, and the one that torch.compile traces.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tailwise.losses.backends import Backend, Evaluated, Wanted, known_in_advance
from tailwise.losses.batches import dense_rows
from tailwise.losses.formula import Coefficients, known_pairs, of_samples, term
from tailwise.shapes import Bool, Float, Shaped

_BLOCK_ELEMENTS = {"cpu": 1 << 16}
"""Elements of a block: on a CPU, as many as its caches hold with all intermediate results."""
_BLOCK_ELEMENTS_ELSEWHERE = 1 << 24


class Eager(Backend):
    """Operations of torch, for every device and type; float64 is computed in float64."""

    def row_sums(self, targets: Tensor, mask: Tensor | None, values: Tensor) -> Float[Tensor, "B M"]:
        blocks = []
        for _, block, known in _blocks(targets, mask):
            blocks.append(_known_positives(block, known, values.dtype) @ values.T)
        return torch.cat(blocks)

    def probability_sums(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Float[Tensor, "4 C"]:
        sums = None
        for rows, block, known in _blocks(targets, mask):
            p = torch.sigmoid(in_full_precision(logits[rows].detach()))
            y = _known_positives(block, known, p.dtype)
            not_y = _known_positives(1 - block.to(p.dtype), known, p.dtype)
            part = torch.stack([(p * y).sum(0), y.sum(0), (p * not_y).sum(0), not_y.sum(0)])
            sums = part if sums is None else sums + part
        assert sums is not None
        return sums

    def evaluate(
        self, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients, wanted: Wanted
    ) -> Evaluated:
        z = logits.detach()
        full = torch.float64 if z.dtype == torch.float64 else torch.float32
        slopes = (torch.empty_like(z) if wanted.out is None else wanted.out) if wanted.gradient else None
        table = torch.empty(z.shape, dtype=full, device=z.device) if wanted.values else None
        totals, counts = [], []
        for rows, block, known in _blocks(targets, mask):
            value, slope = term(in_full_precision(z[rows]), block, known, of_samples(coefficients, rows))
            totals.append(value.sum())
            if known is not None:
                counts.append(known.sum())
            if table is not None:
                table[rows] = value
            if slopes is not None:
                slopes[rows] = slope if wanted.factor == 1 else slope * wanted.factor
        known_count = known_in_advance(targets, mask)
        return Evaluated(
            torch.stack(totals).sum(), torch.stack(counts).sum() if known_count is None else known_count, slopes, table
        )


EAGER = BACKEND = Eager()


def differentiable_term(
    logits: Float[Tensor, "B C"],
    targets: Shaped[Tensor, "B C"],
    mask: Bool[Tensor, "B C"] | None,
    coefficients: Coefficients,
) -> tuple[Float[Tensor, "B C"], Float[Tensor, "B C"]]:
    """Values and derivatives of all pairs, as a graph of the logits that torch can differentiate.

    It keeps all intermediate results, for second derivatives, forward mode and torch.func.
    """
    block = dense_rows(targets, slice(None))
    known, z = known_pairs(block, mask), in_full_precision(logits)
    if known is not None:
        # 0 times the derivative of an unknown pair would be NaN where its logit is NaN.
        z, block = z.masked_fill(~known, 0), block.masked_fill(~known, 0)
    return term(z, block, known, coefficients)


def in_full_precision(z: Tensor) -> Tensor:
    """Half-precision logits as float32."""
    return z.float() if z.dtype in (torch.float16, torch.bfloat16) else z


def _known_positives(targets: Tensor, known: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Targets as ``dtype`` with 0 for unknown labels."""
    y = targets.to(dtype)
    return y if known is None else y.masked_fill(~known, 0)


def _blocks(targets: Tensor, mask: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """Samples, their labels, and which are known; at least one block, and exactly one under torch.compile."""
    samples, classes = targets.shape
    step = samples
    if not torch.compiler.is_compiling():
        step = _BLOCK_ELEMENTS.get(targets.device.type, _BLOCK_ELEMENTS_ELSEWHERE) // max(classes, 1)
    step = max(step, 1)
    for start in range(0, max(samples, 1), step):
        rows = slice(start, start + step)
        block = dense_rows(targets, rows)
        yield rows, block, known_pairs(block, None if mask is None else mask[rows])
