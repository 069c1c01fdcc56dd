"""Average precision where the scores are: on a GPU, in tensor operations, a few classes at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tailwise.metrics.blocks import Targets, is_sparse
from tailwise.metrics.inputs import scores_and_targets
from tailwise.shapes import Float, Int, Num

_SCORES_AT_ONCE = 1 << 22


def average_precision_on_device(scores: Tensor, targets: Targets) -> Float[Tensor, " K"]:
    """Average precision of each class, NaN without a positive or a known negative, on the device of the scores.

    Beside the scores it needs some 50 bytes for each of four million of them, or of one class where that is more.

    Args:
        scores: (N, K) real numbers.
        targets: (N, K), dense or compressed sparse rows, on any device.

    Returns:
        (K,) float64.

    Raises:
        ValueError: a score is NaN or complex, or a target is none of 1, 0 and unknown.
    """
    num_samples, num_classes = scores.shape
    result = torch.full((num_classes,), torch.nan, dtype=torch.float64, device=scores.device)
    labels = _sparse_columns(targets, scores.device) if is_sparse(targets) else lambda part: targets[:, part]
    step = max(1, _SCORES_AT_ONCE // max(1, num_samples))
    for start in range(0, num_classes, step):
        part = slice(start, min(start + step, num_classes))
        s, t = scores_and_targets(scores[:, part], labels(part), first_class=start)
        result[part] = _by_placing(s.T.contiguous(), t.T.contiguous())
    return result


def _by_placing(scores: Num[Tensor, "C N"], labels: Int[Tensor, "C N"]) -> Float[Tensor, " C"]:
    """Average precision of classes that lie in rows: scores are placed among the sorted ones of the positives."""
    num_positive = (labels == 1).sum(dim=1, keepdim=True)
    most = int(num_positive.max())
    position = torch.arange(most, device=scores.device)
    is_padding = position >= num_positive
    # The highest score there is stands for no positive: it stays behind them all.
    highest = torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).max
    table = scores.new_full((len(scores), most), highest)
    table[~is_padding] = scores[labels == 1]
    table = table.sort(dim=1).values
    place = torch.searchsorted(table, scores, right=True).minimum(num_positive).masked_fill_(labels < 0, 0)
    counts = torch.zeros(len(scores), most + 1, dtype=torch.int64, device=scores.device)
    counts.scatter_add_(1, place, place.new_ones(()).expand_as(place))
    ranked = counts.flip(1).cumsum(1).flip(1)[:, 1:]
    hits = num_positive - torch.searchsorted(table, table)
    precision = (hits.double() / ranked).masked_fill(is_padding, 0)
    # Without a positive this is 0 / 0; without a negative nothing could be ranked wrongly.
    result = precision.sum(dim=1) / num_positive.squeeze(1)
    return result.masked_fill((labels == 0).sum(dim=1) == 0, torch.nan)


def _sparse_columns(targets: Any, device: torch.device) -> Callable[[slice], Num[Tensor, "N C"]]:
    """What gives neighbouring columns of compressed sparse rows as a dense matrix on the device."""
    if isinstance(targets, Tensor):
        parts = [targets.crow_indices(), targets.col_indices(), targets.values()]
    else:
        csr = targets.tocsr()
        parts = [torch.from_numpy(np.array(part)) for part in (csr.indptr, csr.indices, csr.data)]
    starts, columns, values = (part.to(device) for part in parts)
    rows = torch.repeat_interleave(torch.arange(len(starts) - 1, device=device), starts.diff())

    def dense(part: slice) -> Num[Tensor, "N C"]:
        here = (columns >= part.start) & (columns < part.stop)
        block = values.new_zeros(len(starts) - 1, part.stop - part.start)
        # Repeated entries add up, as they do everywhere else.
        return block.index_put_((rows[here], columns[here] - part.start), values[here], accumulate=True)

    return dense
