"""Exact, tie-aware average precision of every class."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.inputs import scores_and_targets
from tailwise.shapes import Float, Int, Num

_CHUNK_ELEMENTS = 1 << 20


def average_precision(scores: Tensor | NDArray[Any], targets: Tensor | NDArray[Any]) -> Float[Tensor, " K"]:
    r"""Average precision of each class, on raw scores.

    The area under the precision-recall steps without interpolation, as
    :func:`sklearn.metrics.average_precision_score` defines it. It is the mean, over the positives :math:`i` of a
    class, of the precision among everything that scores at least as high:

    .. math:: AP = \frac{1}{P} \sum_{i: y_i = 1}
              \frac{|\{j: y_j = 1, s_j \ge s_i\}|}{|\{j: y_j \in \{0, 1\}, s_j \ge s_i\}|}

    Samples with equal scores are therefore ranked together, whatever their order in the input. Do not round or squash
    the scores first: a sigmoid in half precision makes ties that the logits do not have.

    Args:
        scores: (N, K) real numbers of any dtype, higher means more likely; infinities are ranked like other values.
            They are compared in their own precision.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point). An unknown label is left out of the
            ranking of its class.

    Returns:
        (K,) float64 values in (0, 1], NaN for a class without a positive.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a target is none of 1, 0 and unknown.
    """
    s, t = scores_and_targets(scores, targets)
    num_samples, num_classes = s.shape
    result = torch.full((num_classes,), torch.nan, dtype=torch.float64, device=s.device)
    if num_samples == 0:
        return result
    step = max(1, _CHUNK_ELEMENTS // num_samples)
    for start in range(0, num_classes, step):
        chunk = slice(start, start + step)
        result[chunk] = _per_row(s[:, chunk].T.contiguous(), t[:, chunk].T.contiguous())
    return result


def _per_row(scores: Num[Tensor, "C N"], targets: Int[Tensor, "C N"]) -> Float[Tensor, " C"]:
    """Average precision of classes that lie in rows, from counts of scores alone: no permutation is ever carried."""
    positive = targets == 1
    num_known = (targets >= 0).sum(dim=1, keepdim=True)
    num_positive = positive.sum(dim=1, keepdim=True)
    most = int(num_positive.max())
    # What does not take part gets the lowest score there is: it can only tie with real scores of that value, and
    # then the count is clamped to the number of those that do take part.
    lowest = -torch.inf if scores.is_floating_point() else torch.iinfo(scores.dtype).min
    known_scores = sorted_rows(scores.masked_fill(targets < 0, lowest))
    positive_scores = sorted_rows(scores.masked_fill(~positive, lowest))[:, scores.shape[1] - most :].contiguous()
    ranked = _count_at_least(known_scores, positive_scores).minimum(num_known)
    hits = _count_at_least(positive_scores, positive_scores).minimum(num_positive)
    is_padding = torch.arange(most, 0, -1, device=scores.device) > num_positive
    precision = (hits.double() / ranked).masked_fill(is_padding, 0)
    return precision.sum(dim=1) / num_positive.squeeze(1)


def sorted_rows(values: Num[Tensor, "C N"]) -> Num[Tensor, "C N"]:
    """Each row in rising order."""
    if values.device.type == "cpu":
        # numpy sorts bare values with vector instructions, several times faster than torch's sort with indices.
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def _count_at_least(sorted_rows: Num[Tensor, "C N"], values: Num[Tensor, "C P"]) -> Int[Tensor, "C P"]:
    return sorted_rows.shape[1] - torch.searchsorted(sorted_rows, values)
