"""The term by Numba loops for a CPU: every logit is read once, and no intermediate table is allocated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.loops import share
from tailwise.losses.backends import Backend, Evaluated, Wanted, known_in_advance
from tailwise.losses.backends import numba_loops as loops
from tailwise.losses.backends import numba_sum_loops as sums
from tailwise.losses.backends.numba_sum_loops import WIDTH
from tailwise.losses.batches import is_sparse, to_kind
from tailwise.losses.formula import Coefficients, FocalOn, Side
from tailwise.shapes import Float

_TILE_ELEMENTS = 1 << 15
_SUM_ELEMENTS = 1 << 19  # which take as long as those of a tile
_NONE, _NO_TABLE = np.empty(0, np.float32), np.empty((0, 0), np.float32)
_NO_BOUNDS, _NO_MASK = np.empty(0, np.int64), np.empty((0, 0), np.bool_)


class Numba(Backend):
    """Loops on as many threads as torch uses; half precision is computed in float32."""

    def row_sums(self, targets: Tensor, mask: Tensor | None, values: Tensor) -> Float[Tensor, "B M"]:
        result = np.empty((targets.shape[0], len(values)), np.float32)
        share(sums.row_sums, -(-targets.numel() // _SUM_ELEMENTS), *_labels(targets, mask), _array(values), result)
        return torch.from_numpy(result)

    def probability_sums(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Float[Tensor, "4 C"]:
        bits, shift = _bits(logits)
        result = np.empty((4, targets.shape[1]), np.float32)
        pieces = -(-targets.shape[1] // WIDTH)
        share(sums.probability_sums, pieces, bits, shift, *_labels(targets, mask), result)
        return torch.from_numpy(result)

    def evaluate(
        self, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients, wanted: Wanted
    ) -> Evaluated:
        positive, negative, weight, scale, focal_on = coefficients
        samples, classes = logits.shape
        bits, shift = _bits(logits)
        slopes = _gradient_buffer(logits, wanted.out) if wanted.gradient else None
        table = np.empty((samples, classes), np.float32) if wanted.values else _NO_TABLE
        height = max(1, _TILE_ELEMENTS // WIDTH)
        tiles = -(-samples // height) * -(-classes // WIDTH)
        totals, known = np.empty(tiles, np.float64), np.empty(tiles, np.int64)
        share(
            loops.evaluate, tiles, bits, shift, *_labels(targets, mask), _sides(positive, negative, classes),
            _NONE if weight.sample is None else _array(weight.sample),
            _NONE if weight.label is None else _array(weight.label),
            _NONE if weight.smoothing is None else np.array(weight.smoothing, np.float32),
            np.float32(scale), *_kinds(positive, negative, focal_on),
            np.float32(positive.number), np.float32(negative.number), np.float32(wanted.factor), height,
            _NO_TABLE.view(bits.dtype) if slopes is None else _bits(slopes)[0], table, totals, known,
        )  # fmt: skip
        count = known_in_advance(targets, mask)
        return Evaluated(
            torch.tensor(totals.sum(), dtype=torch.float32),
            torch.tensor(known.sum()) if count is None else count,
            None if slopes is None else slopes.to(logits.dtype),
            torch.from_numpy(table) if wanted.values else None,
        )


BACKEND = Numba()


def _bits(logits: Tensor) -> tuple[NDArray[Any], np.uint32]:
    """The bits of logits, and the left shift that makes them those of float32."""
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
    for row, value in enumerate((*positive.factors, *negative.factors)):
        table[row] = value.numpy() if isinstance(value, Tensor) else value
    np.reciprocal(table[2::4], out=table[2::4])
    return table


def _kinds(positive: Side, negative: Side, focal_on: FocalOn) -> tuple[int, int]:
    """The loops of both sides; softplus sides share one, by their focal factors."""
    exponents = (positive.exponent, negative.exponent)
    if not any(isinstance(exponent, Tensor) for exponent in exponents) and exponents == (0, 0):
        softplus = loops.NO_FOCAL
    elif focal_on == "plain":
        softplus = loops.PLAIN_FOCAL
    else:
        is_squared = not any(isinstance(exponent, Tensor) for exponent in exponents) and exponents == (2, 2)
        softplus = loops.SQUARED_FOCAL if is_squared else loops.FOCAL
    plus, minus = (softplus if side.kind == "softplus" else loops.KINDS[side.kind] for side in (positive, negative))
    return plus, minus


def _array(values: Tensor) -> NDArray[np.float32]:
    return values.detach().float().contiguous().numpy()
