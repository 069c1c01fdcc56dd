"""The term by Triton kernels for CUDA: every logit is read once, without synchronisation.

For (B, C) bfloat16 logits with uint8 labels, an evaluation moves 5 bytes per logit: 3 read, 2 written. Weights that
follow from a sample's labels read 1 more before, and guidance 3, except for hits of the second-level cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from tailwise.losses.backends import Backend, Evaluated, Wanted, known_in_advance
from tailwise.losses.backends import triton_kernels as kernels
from tailwise.losses.batches import is_sparse
from tailwise.losses.formula import SIDE_FACTORS, Coefficients, Factor, Side, of_samples
from tailwise.shapes import Float

_PAIRS = 1024
"""Pairs that a program of four warps processes at once: 8 per thread, which are 16 bytes in half precision."""
_SUMMED_PAIRS = 2048
"""The same where only labels are read: again 16 bytes per thread."""
_PROGRAMS = 1024
"""Programs that fill a device: tiles shrink rather than leave fewer."""
_EVALUATED_SAMPLES, _SUMMED_SAMPLES, _SUMMED_CLASSES = 32, 128, 1 << 15
"""Most samples or classes of a tile: enough to share the parameters of classes, or the writes of sums."""
_SCRATCH_BYTES = 1 << 25
"""Size of the blocks in which sparse labels are made dense, which the second-level cache holds."""
_ENTRIES, _SCALED = 128, 4096
"""Labels of a sparse sample, and derivatives, that a program processes at once."""


class Triton(Backend):
    """Triton's kernels for float32, bfloat16 and float16; all compute in float32, and every sum has a fixed order."""

    def row_sums(self, targets: Tensor, mask: Tensor | None, values: Tensor) -> Float[Tensor, "B M"]:
        factors = values.detach().float().contiguous()
        parts = []
        for rows, block in _dense_blocks(targets):
            (samples, classes), kinds = block.shape, len(factors)
            height, columns = _at_once(classes, _SUMMED_PAIRS, least_samples=4)
            down = _parts(samples, height)
            width = _extent(classes, columns, _SUMMED_CLASSES, down)
            across = _parts(classes, width)
            sums = torch.empty(across, samples, kinds, dtype=torch.float32, device=block.device)
            known, known_stride = _known_rows(mask, rows)
            _launch(
                kernels.row_sums, down * across, block, known, factors, sums, samples, classes, block.stride(0),
                known_stride, width // columns, KINDS=kinds, **_evenly(block, height, columns),
            )  # fmt: skip
            parts.append(sums.sum(0) if across > 1 else sums[0])
        return _joined(parts)

    def probability_sums(self, logits: Tensor, targets: Tensor, mask: Tensor | None) -> Float[Tensor, "4 C"]:
        z = _with_rows(logits.detach())
        parts = []
        for rows, block in _dense_blocks(targets):
            (samples, classes), part = block.shape, z[rows]
            least_height, columns = _at_once(classes)
            across = _parts(classes, columns)
            height = _extent(samples, least_height, _SUMMED_SAMPLES, across)
            down = _parts(samples, height)
            sums = torch.empty(down, 4, classes, dtype=torch.float32, device=z.device)
            known, known_stride = _known_rows(mask, rows)
            _launch(
                kernels.probability_sums, down * across, part, block, known, sums, samples, classes, part.stride(0),
                block.stride(0), known_stride, height, **_evenly(block, least_height, columns),
            )  # fmt: skip
            parts.append(sums)
        return _joined(parts).sum(0)

    def evaluate(
        self, logits: Tensor, targets: Tensor, mask: Tensor | None, coefficients: Coefficients, wanted: Wanted
    ) -> Evaluated:
        z, out = _with_rows(logits.detach()), wanted.out
        slopes = (torch.empty_like(z) if out is None or not _has_rows(out) else out) if wanted.gradient else None
        table = torch.empty(z.shape, dtype=torch.float32, device=z.device) if wanted.values else None
        known = known_in_advance(targets, mask)
        totals, counts = [], []
        for rows, block in _dense_blocks(targets):
            total, count = _evaluate_block(
                z[rows],
                block,
                _known_rows(mask, rows),
                of_samples(coefficients, rows),
                wanted.factor,
                None if slopes is None else slopes[rows],
                None if table is None else table[rows],
                counted=known is None,
            )
            totals.append(total)
            counts.append(count)
        return Evaluated(_joined(totals).sum(), _joined(counts).sum() if known is None else known, slopes, table)

    def scale_(self, gradient: Tensor, factor: Tensor) -> Tensor:
        """As :meth:`Backend.scale_`; a factor of 1 costs no memory traffic."""
        if factor.ndim or not gradient.is_contiguous():
            return super().scale_(gradient, factor)
        programs = min(_parts(gradient.numel(), _SCALED), _PROGRAMS)
        _launch(kernels.scale, programs, gradient, factor, gradient.numel(), WIDTH=_SCALED)
        return gradient


BACKEND = Triton()


def _evaluate_block(
    z: Tensor,
    targets: Tensor,
    known: tuple[Tensor | None, int],
    coefficients: Coefficients,
    factor: float,
    gradient: Tensor | None,
    values: Tensor | None,
    *,
    counted: bool,
) -> tuple[Tensor, Tensor]:
    """Evaluate the term for dense labels; return sums and, if ``counted``, numbers of known pairs of the tiles."""
    positive, negative, weight, scale, focal_on = coefficients
    samples, classes = z.shape
    least_height, columns = _at_once(classes)
    across = _parts(classes, columns)
    height = _extent(samples, least_height, _EVALUATED_SAMPLES, across)
    tiles = _parts(samples, height) * across
    totals = torch.empty(tiles, dtype=torch.float32, device=z.device)
    counts = torch.empty(tiles if counted else 0, dtype=torch.int32, device=z.device)
    _launch(
        kernels.evaluate, tiles, z, targets, known[0], *_sides(positive, negative), _vector(weight.sample),
        _vector(weight.label), None if weight.smoothing is None else tuple(float(n) for n in weight.smoothing),
        float(scale), (float(positive.number), float(negative.number)), float(factor), gradient, values, totals,
        counts if counted else None, samples, classes, z.stride(0), targets.stride(0), known[1],
        0 if gradient is None else gradient.stride(0), height, KINDS=(positive.kind, negative.kind),
        FOCAL_PLUS=_is_focal(positive), FOCAL_MINUS=_is_focal(negative), PLAIN=focal_on == "plain",
        **_evenly(z, least_height, columns),
    )  # fmt: skip
    return totals, counts


def _launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel on the device of its first argument."""
    device = arguments[0].device
    if programs:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            kernel[(programs,)](*arguments, **constants)


def _sides(positive: Side, negative: Side) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Both sides as the kernel takes them: numbers, vectors, and on the negative one None for equal factors."""
    minus = []
    for field, own, other in zip(SIDE_FACTORS, positive.factors, negative.factors, strict=True):
        is_same = own is other or (not isinstance(own, Tensor) and not isinstance(other, Tensor) and own == other)
        minus.append(None if is_same and field != "slope" else _factor(other))  # slopes differ in their sign
    return tuple(_factor(own) for own in positive.factors), tuple(minus)


def _factor(factor: Factor) -> Tensor | float:
    return factor.detach().contiguous() if isinstance(factor, Tensor) else float(factor)


def _vector(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.detach().contiguous()


def _is_focal(side: Side) -> bool:
    return isinstance(side.exponent, Tensor) or side.exponent != 0


def _dense_blocks(targets: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Labels as the kernels read them, with their samples: all at once if dense, or blocks of sparse ones."""
    samples, classes = targets.shape
    if not is_sparse(targets):
        yield slice(0, samples), _readable(_with_rows(targets))
        return
    entries = _readable(targets.values())
    if not entries.is_floating_point() and entries.dtype != torch.uint8:
        entries = entries.to(torch.int8)
    bounds, columns = targets.crow_indices(), targets.col_indices()
    step = max(1, _SCRATCH_BYTES // (classes * entries.element_size()))
    scratch = torch.empty(min(step, samples), classes, dtype=entries.dtype, device=entries.device)
    for start in range(0, max(samples, 1), step):
        block = scratch[: samples - start].zero_()
        _launch(kernels.scatter, len(block), bounds, columns, entries, block, start, classes, WIDTH=_ENTRIES)
        yield slice(start, start + len(block)), block


def _joined(parts: list[Tensor]) -> Tensor:
    """Parts of all blocks, without a copy where there is one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _known_rows(mask: Tensor | None, rows: slice) -> tuple[Tensor | None, int]:
    """The mask of some samples as a kernel reads it, and its row stride."""
    if mask is None:
        return None, 0
    known = _readable(_with_rows(mask[rows]))
    return known, known.stride(0)


def _readable(labels: Tensor) -> Tensor:
    """Booleans as bytes."""
    return labels.view(torch.uint8) if labels.dtype == torch.bool else labels


def _has_rows(table: Tensor) -> bool:
    return table.stride(1) == 1 or table.shape[1] <= 1


def _with_rows(table: Tensor) -> Tensor:
    """A table with contiguous rows."""
    return table if _has_rows(table) else table.contiguous()


def _at_once(classes: int, pairs: int = _PAIRS, least_samples: int = 1) -> tuple[int, int]:
    """Samples and classes that a program has at once; both are powers of 2."""
    columns = min(pairs // least_samples, 1 << max(classes - 1, 0).bit_length())
    # Fewer, but 256 at least, where more would reach further beyond the last class.
    while columns > 256 and _parts(classes, columns // 2) * (columns // 2) < _parts(classes, columns) * columns:
        columns //= 2
    return pairs // columns, columns


def _evenly(table: Tensor, height: int, width: int) -> dict[str, int | bool]:
    """The block of a program, and whether it divides the table, so that no pair needs a check."""
    is_even = table.shape[0] % height == 0 and table.shape[1] % width == 0
    return {"EVEN": is_even, "ROWS": height, "COLUMNS": width}


def _extent(length: int, unit: int, most: int, across: int) -> int:
    """Samples or classes of a tile: a multiple of ``unit``, small enough for the number of programs."""
    wanted = _parts(length, _parts(_PROGRAMS, max(across, 1)))
    return max(1, min(_parts(wanted, unit), most // unit)) * unit


def _parts(length: int, size: int) -> int:
    """Number of pieces of a size that cover a length."""
    return -(-length // size)
