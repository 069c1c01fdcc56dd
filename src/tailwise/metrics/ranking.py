"""Scores of whole rankings."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tailwise.metrics.score_matrix import Labels, Scores, scores_and_targets
from tailwise.shapes import Float


def log_rank_score(scores: Scores, targets: Labels) -> Float[Tensor, " K"]:
    r"""How high the positives of each class are ranked, by the logarithms of their ranks.

    With :math:`r_i` one more than the number of the :math:`n` negatives above positive :math:`i`, where those tied with
    it count half, and P positives,

    .. math:: 1 - \frac{1}{P} \sum_i \frac{\log r_i}{\log(n + 1)} .

    It is 1 for a perfect ranking and 0 where all negatives are above all positives. Average precision takes the
    reciprocals of ranks, and so depends on a few positives at the top; with few positives, the logarithm varies less
    from sample to sample, while it still counts the top of the ranking for more than its middle, unlike the area
    under the ROC curve.

    Args:
        scores: (N, K) numbers, higher means more likely.
        targets: (N, K) entries 1, 0, or unknown (-1, and NaN in floating point); unknown labels are not counted.

    Returns:
        (K,) float64 values in [0, 1], NaN for a class without a positive or without a known negative.

    Raises:
        ValueError: the shapes disagree, a score is NaN, or a target is none of 1, 0 and unknown.

    Example:
        >>> log_rank_score([[0.9], [0.5], [0.7], [0.1]], [[1], [1], [0], [0]])  # ranks 1 and 2 of up to 3
        tensor([0.6845], dtype=torch.float64)
    """
    s, t = scores_and_targets(scores, targets)
    values, labels = s.cpu().numpy(), t.cpu().numpy()
    return torch.tensor([_of_class(values[:, k], labels[:, k]) for k in range(values.shape[1])], dtype=torch.float64)


def _of_class(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    positives, negatives = scores[labels == 1], np.sort(scores[labels == 0])
    if not len(positives) or not len(negatives):
        return float("nan")
    below, not_above = (np.searchsorted(negatives, positives, side=side) for side in ("left", "right"))
    ranks = 1 + len(negatives) - (below + not_above) / 2
    return float(1 - np.log(ranks).mean() / np.log(len(negatives) + 1))
