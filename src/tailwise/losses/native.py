"""The term in Numba's loops, for a CPU: every logit is read once, and nothing of the size of the batch is made."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.kernels import sums
from tailwise.kernels import term as loops
from tailwise.kernels.pieces import WIDTH
from tailwise.kernels.threads import share
from tailwise.losses.implementation import Backend, Evaluated, known_in_advance
from tailwise.losses.targets import is_sparse, to_kind
from tailwise.losses.term import Coefficients, FocalOn, Side
from tailwise.shapes import Bool, Float, Shaped

_TILE_ELEMENTS = 1 << 15
_SUM_ELEMENTS = 1 << 19  # which take as long as those of a tile
_NONE, _NO_TABLE = np.empty(0, np.float32), np.empty((0, 0), np.float32)
_NO_BOUNDS, _NO_MASK = np.empty(0, np.int64), np.empty((0, 0), np.bool_)


class Native(Backend):
    """Numba's loops on as many threads as torch uses; half precision is computed in float32."""

    def row_sums(
        self, targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None, values: Float[Tensor, "M C"]
    ) -> Float[Tensor, "B M"]:
        result = np.empty((targets.shape[0], len(values)), np.float32)
        share(sums.row_sums, -(-targets.numel() // _SUM_ELEMENTS), *_labels(targets, mask), _array(values), result)
        return torch.from_numpy(result)

    def probability_sums(
        self, logits: Float[Tensor, "B C"], targets: Shaped[Tensor, "B C"], mask: Bool[Tensor, "B C"] | None
    ) -> Float[Tensor, "4 C"]:
        bits, shift = _bits(logits)
        result = np.empty((4, targets.shape[1]), np.float32)
        pieces = -(-targets.shape[1] // WIDTH)
        share(sums.probability_sums, pieces, bits, shift, *_labels(targets, mask), result)
        return torch.from_numpy(result)

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
        positive, negative, weight, scale, margin, focal_on = coefficients
        samples, classes = logits.shape
        bits, shift = _bits(logits)
        slopes = _gradient_buffer(logits, out) if gradient else None
        table = np.empty((samples, classes), np.float32) if values else _NO_TABLE
        height = max(1, _TILE_ELEMENTS // WIDTH)
        tiles = -(-samples // height) * -(-classes // WIDTH)
        totals, known = np.empty(tiles, np.float64), np.empty(tiles, np.int64)
        share(
            loops.evaluate,
            tiles,
            bits,
            shift,
            *_labels(targets, mask),
            _sides(positive, negative, classes),
            _NONE if weight.sample is None else _array(weight.sample),
            _NONE if weight.label is None else _array(weight.label),
            _NONE if weight.smoothing is None else np.array(weight.smoothing, np.float32),
            np.float32(scale),
            np.float32(margin),
            _focal_kind(positive, negative, focal_on),
            focal_on == "plain",
            np.float32(factor),
            height,
            _NO_TABLE.view(bits.dtype) if slopes is None else _bits(slopes)[0],
            table,
            totals,
            known,
        )
        count = known_in_advance(targets, mask)
        return Evaluated(
            torch.tensor(totals.sum(), dtype=torch.float32),
            torch.tensor(known.sum()) if count is None else count,
            None if slopes is None else slopes.to(logits.dtype),
            torch.from_numpy(table) if values else None,
        )


def _bits(logits: Tensor) -> tuple[NDArray[Any], np.uint32]:
    """The bits of logits, and how far they have to be shifted to be those of float32."""
    z = logits.detach()
    z = (z.float() if z.dtype == torch.float16 else z).contiguous()
    if z.dtype == torch.bfloat16:
        return z.view(torch.uint16).numpy(), np.uint32(16)
    return z.view(torch.uint32).numpy(), np.uint32(0)


def _gradient_buffer(logits: Tensor, out: Tensor | None) -> Tensor:
    if out is not None and out.is_contiguous() and out.dtype != torch.float16:
        return out
    return torch.empty(logits.shape, dtype=torch.float32 if logits.dtype == torch.float16 else logits.dtype)


def _labels(targets: Tensor, mask: Tensor | None) -> tuple[NDArray[Any], ...]:
    """Labels and mask as the loops take them."""
    targets = to_kind(targets)
    masked = _NO_MASK if mask is None else mask.contiguous().numpy()
    if is_sparse(targets):
        entries = targets.values().numpy()
        bounds, columns = targets.crow_indices().long().numpy(), targets.col_indices().long().numpy()
        return np.empty((0, 0), entries.dtype), bounds, columns, entries, masked
    dense = targets.contiguous().numpy()
    return dense, _NO_BOUNDS, _NO_BOUNDS, np.empty(0, dense.dtype), masked


def _sides(positive: Side, negative: Side, classes: int) -> NDArray[np.float32]:
    table = np.empty((8, classes), np.float32)
    for row, value in enumerate((*positive, *negative)):
        table[row] = value.numpy() if isinstance(value, Tensor) else value
    np.reciprocal(table[2::4], out=table[2::4])
    return table


def _focal_kind(positive: Side, negative: Side, focal_on: FocalOn) -> int:
    exponents = (positive.exponent, negative.exponent)
    if any(isinstance(exponent, Tensor) for exponent in exponents):
        return loops.FOCAL
    if exponents == (2, 2) and focal_on == "regularized":
        return loops.SQUARED_FOCAL
    return loops.NO_FOCAL if exponents == (0, 0) else loops.FOCAL


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().contiguous().numpy()
